from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.conftest import TINY, tiny_backbone
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import Views
from vatt.datasets.table import ClipTable
from vatt.errors import InputError
from vatt.evaluation.features import FINAL, _check_memory, extract
from vatt.models.backbone import Backbone
from vatt.models.transformer import Transformer
from vatt.structures import Clip


@pytest.mark.parametrize(
    ("modality", "crops", "batch_size", "num_workers"), [("video", 1, 3, 0), ("video", 3, 6, 0), ("audio", 1, 8, 2)]
)
def test_features_are_those_of_the_backbone(
    video_file: Path, sound_file: Path, tmp_path: Path, modality: str, crops: int, batch_size: int, num_workers: int
) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    paths = {"a": str(video_file), "bad": str(tmp_path / "bad.mp4"), "b": str(video_file)}
    clips = ClipTable(Clip(id=name, path=path, start_s=float(name == "b")) for name, path in paths.items())
    tower = tiny_backbone().tower(modality).eval()
    reader = ClipReader(TINY, modalities=(modality,))
    options = {"batch_size": batch_size, "num_workers": num_workers, "device": "cpu"}
    found = extract(tower, clips, reader, Views(2, crops), tokens=(FINAL, "1"), **options)
    assert found.ids == ["a", "b"]
    assert [event["id"] for event in found.events] == ["bad"]
    assert list(found.layers) == ["1", "2", FINAL]
    assert all(x.shape == (2, 2 * crops, 16) for x in found.layers.values())
    for name, every in found.tokens.items():
        torch.testing.assert_close(every[:, :, 0].float(), found.layers[name], rtol=1e-3, atol=1e-3)
    # By hand: the last window of "b", its last square.
    with ExitStack() as stack:
        crop_position = 0.5 if crops == 1 else 1.0
        sample = reader.read(clips[2], reader.open(clips[2], stack), 2.0, 3.0, crop_position=crop_position)
    raw = sample[modality][None]
    raw = raw.float() / 127.5 - 1 if modality == "video" else raw
    with torch.no_grad():
        features = tower.encode(modality, tower.tokenize(modality, raw), layers=True)
    torch.testing.assert_close(found.layers[FINAL][1, -1], features.pooled[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.layers["1"][1, -1], features.layers[0][0, 0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.tokens[FINAL][1, -1, 1:].float(), features.tokens[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.tokens["1"][1, -1].float(), features.layers[0][0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_token_that_has_seen_all_it_is_the_mean(video_file: Path, causal: bool) -> None:
    """Of towers without an AGG token, and of causal ones, in which it sees nothing but itself."""
    tower = tiny_backbone().tower("video")
    encoder = Transformer(16, 2, 2, agg=causal, causal=causal, rotary="sequence" if causal else None)
    tower = Backbone({"video": tower.tokenizers["video"]}, {"video": encoder}).eval()
    clips = ClipTable([Clip(id="a", path=str(video_file))])
    reader = ClipReader(TINY, modalities=("video",))
    found = extract(tower, clips, reader, Views(), tokens=("1", FINAL), num_workers=0, device="cpu")
    with ExitStack() as stack:
        start_s = (3.0 - TINY.duration_s) / 2  # the middle of three seconds
        sample = reader.read(clips[0], reader.open(clips[0], stack), start_s, 3.0)
    with torch.no_grad():
        raw = sample["video"][None].float() / 127.5 - 1
        features = tower.encode("video", tower.tokenize("video", raw), layers=True)
    tokens = features.layers[0][:, int(causal) :]
    torch.testing.assert_close(found.layers["1"][0, 0], tokens.mean(dim=1)[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.layers[FINAL][0, 0], features.tokens.mean(dim=1)[0], rtol=1e-4, atol=1e-5)
    for name, every in (("1", tokens), (FINAL, features.tokens)):
        torch.testing.assert_close(found.tokens[name][0, 0].float(), every[0], rtol=1e-3, atol=1e-3)


def test_tokens_that_do_not_fit_into_memory_are_refused_before_anything_is_lost() -> None:
    with pytest.raises(InputError, match=r"need .* GiB of memory"):
        _check_memory(2**60, ("final",))
