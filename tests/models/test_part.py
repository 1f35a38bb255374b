import json

import pytest
import torch

from tests.conftest import tiny_backbone
from vatt.models.part import from_config, to_config
from vatt.models.transformer import Transformer


@pytest.mark.parametrize("shared", [False, True])
def test_a_part_is_rebuilt_from_json(shared: bool) -> None:
    backbone = tiny_backbone(shared)
    config = json.loads(json.dumps(to_config(backbone)))
    again = from_config(config)
    assert to_config(again) == config
    again.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 8, 3, 32, 32)
    assert torch.equal(again.eval()("video", x).pooled, backbone.eval()("video", x).pooled)


def test_defaults_are_kept_too() -> None:
    made = to_config(Transformer(8, depth=1, heads=2))["init_args"]
    assert made["width"] == 8
    assert made["mlp_width"] is None
    assert made["dropout"] == 0.0


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("os.system", "refusing to load 'os.system'"),
        ("vatt.models.backbone.torch", "not a model class"),
        ("vatt.models.gone.Gone", "this version of vatt has no"),
        ("vatt.models.part.import_module", "not a model class"),
    ],
)
def test_a_configuration_runs_no_foreign_code(path: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_config({"class_path": path, "init_args": {}})


def test_an_unknown_argument_is_an_error() -> None:
    config = to_config(Transformer(8, depth=1, heads=2))
    config["init_args"]["hight"] = 3
    with pytest.raises(TypeError, match="hight"):
        from_config(config)


def test_what_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError, match="Tensor"):
        to_config({"x": torch.zeros(1)})


def test_a_brief_description_leaves_out_what_has_its_default() -> None:
    part = Transformer(8, depth=1, heads=2, dropout=0.1)
    assert to_config(part, brief=True)["init_args"] == {"width": 8, "depth": 1, "heads": 2, "dropout": 0.1}
