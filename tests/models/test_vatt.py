from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_batch, tiny_model
from vatt.models.vatt import VATT


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    batch = tiny_batch(3)
    return {"video": batch["video"], "audio": batch["audio"], "text": batch["text"][:, 0]}


@pytest.mark.parametrize("shared", [False, True])
def test_a_saved_model_gives_the_same_vectors(tmp_path: Path, inputs: dict, shared: bool) -> None:
    model = tiny_model(shared)
    model.save_pretrained(tmp_path / "model")
    again = VATT.from_pretrained(tmp_path / "model")
    assert not again.training
    assert again.format == model.format
    for name, value in model(**inputs).items():
        assert torch.equal(value, again(**inputs)[name]), name
    assert again.fingerprint() == model.fingerprint()
    written = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert written == ["README.md", "config.json", "model.safetensors"]


def test_the_fingerprint_changes_with_any_weight_and_any_setting(tmp_path: Path) -> None:
    model = tiny_model()
    before = model.fingerprint()
    with torch.no_grad():
        model.projection.text_to_vt.bias[0] += 1e-6
    after = model.fingerprint()
    assert before != after
    model.format = type(model.format)(**{**model.format.to_dict(), "fps": 9.0})
    assert model.fingerprint() not in (before, after)


def test_encoding_gives_unit_vectors_in_the_asked_space(inputs: dict) -> None:
    model = tiny_model()
    assert model.encode_video(inputs["video"]).shape == (3, 8)
    assert model.encode_video(inputs["video"], space="video_audio").shape == (3, 12)
    assert model.encode_audio(inputs["audio"]).shape == (3, 12)
    vectors = model.encode_text(inputs["text"])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    with pytest.raises(ValueError, match="no text in the video_audio space"):
        model.encode_text(inputs["text"], space="video_audio")


def test_a_batch_of_two_is_two_batches_of_one(inputs: dict) -> None:
    model = tiny_model()
    together = model(**inputs)
    for i in range(3):
        alone = model(**{name: x[i : i + 1] for name, x in inputs.items()})
        for name, value in alone.items():
            assert torch.allclose(value[0], together[name][i], atol=1e-5), name


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model in .*: config.json is missing"):
        VATT.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["projection"]["init_args"]["video_text"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"text_to_vt.weight"):
        VATT.from_pretrained(tmp_path)
