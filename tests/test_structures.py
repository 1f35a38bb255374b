import json

import pytest
import torch

from vatt.structures import ClipFormat, Tokens


def test_the_default_format_is_the_papers() -> None:
    spec = ClipFormat()
    assert spec.duration_s == pytest.approx(3.2)
    assert spec.num_samples == 153_600


def test_format_survives_json() -> None:
    spec = ClipFormat(num_frames=8, fps=12.5, size=64, crop_box=(0.1, 0.2, 0.9, 1.0))
    assert ClipFormat.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    "wrong",
    [
        {"fps": 0},
        {"size": -1},
        {"crop_box": (0.5, 0.0, 0.5, 1.0)},
        {"fps": 1e6},
        {"fps": 1e-3},
        {"fps": float("nan")},
        {"sample_rate": 1},
        {"sample_rate": 10**7},
        {"audio_s": 1e-6},
        {"audio_s": float("inf")},
        {"audio_downmix": "left"},
        {"audio_overflow": "wrap"},
    ],
)
def test_format_refuses_nonsense(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ClipFormat(**wrong)


def test_take_gives_each_clip_its_own_tokens() -> None:
    x = torch.arange(2 * 5 * 3).reshape(2, 5, 3).float()
    position = torch.arange(2 * 5 * 3).reshape(2, 5, 3)
    valid = torch.tensor([[True] * 5, [True, False, True, False, True]])
    keep = torch.tensor([[4, 0], [1, 2]])
    taken = Tokens(x, position, valid).take(keep)
    for b in range(2):
        for n in range(2):
            assert torch.equal(taken.x[b, n], x[b, keep[b, n]])
            assert torch.equal(taken.position[b, n], position[b, keep[b, n]])
            assert taken.valid[b, n] == valid[b, keep[b, n]]
