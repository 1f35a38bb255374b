"""Files and words to vectors in three lines, the same that `vatt embed` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from scipy.io import wavfile

import vatt
from tests.conftest import tiny_model
from vatt.datasets.loading.batches import Sample
from vatt.datasets.windows import Windows
from vatt.errors import InputError
from vatt.models import encoding
from vatt.models.encoding import BATCH, encode_file
from vatt.retrieval.embeddings import embed
from vatt.retrieval.saved_embeddings import Embeddings


@pytest.fixture
def model(model_folder: Path) -> vatt.VATT:
    return vatt.VATT.from_pretrained(model_folder)


@pytest.mark.parametrize("space", ["video_text", "video_audio"])
def test_a_path_has_the_vector_of_its_pooled_embedding(
    model: vatt.VATT, video_file: Path, silent_file: Path, tmp_path: Path, space: str
) -> None:
    for file in (video_file, silent_file):
        embed(file, model, tmp_path / file.stem, num_workers=0, batch_size=2)
    both = model.encode_video([video_file, str(silent_file)], space)
    for file, vector in zip((video_file, silent_file), both, strict=True):
        pooled = pq.read_table(tmp_path / file.stem / "pooled.parquet").to_pylist()
        stored = next(row["vector"] for row in pooled if (row["modality"], row["space"]) == ("video", space))
        np.testing.assert_allclose(vector.numpy(), F.normalize(torch.tensor(stored), dim=0).numpy(), atol=1e-5)
    assert torch.equal(model.encode_video(video_file, space)[0], both[0])


def test_windows_of_a_file_are_those_that_embed_writes(model: vatt.VATT, video_file: Path, tmp_path: Path) -> None:
    file = encode_file(model, video_file, hop_s=0.1)
    assert len(file.start_s) > BATCH  # more than go through the model at once
    embed(video_file, model, tmp_path / "out", num_workers=0, hop_s=0.1)
    store = Embeddings(tmp_path / "out")
    for kind, found in file.vectors.items():
        rows = store.select(*kind)
        assert rows.column("start_s") == [s for s, real in zip(file.start_s, file.valid[kind[0]], strict=True) if real]
        np.testing.assert_allclose(found[file.valid[kind[0]]].numpy(), rows.vectors, atol=1e-5)


def test_of_a_long_file_a_batch_of_windows_is_in_memory(
    model: vatt.VATT, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, encoded, most = Windows.of, encoding.encode_windows, [0, 0]

    def of(self: Windows, clip: vatt.Clip) -> Iterator[Sample]:
        for sample in read(self, clip):
            most[0] += 1
            yield sample

    def encode(model: vatt.VATT, batch: vatt.Batch) -> dict[encoding.Kind, torch.Tensor]:
        most[1] = max(most[1], most[0])
        most[0] = 0
        return encoded(model, batch)

    monkeypatch.setattr(Windows, "of", of)
    monkeypatch.setattr(encoding, "encode_windows", encode)
    assert len(encode_file(model, video_file, hop_s=0.1).start_s) > BATCH
    assert most[1] == BATCH


def test_sounds_and_words(model: vatt.VATT, sound_file: Path, video_file: Path) -> None:
    heard = model.encode_audio([sound_file, video_file])
    torch.testing.assert_close(heard.norm(dim=1), torch.ones(2))
    words = model.encode_text(["a red ring", "a blue bar"])
    torch.testing.assert_close(model.encode_text("a blue bar"), words[1:])
    assert not any(vectors.requires_grad for vectors in (heard, words))
    torch.testing.assert_close(words.norm(dim=1), torch.ones(2))
    with pytest.warns(UserWarning, match="1 of 2 texts are truncated"):
        model.encode_text(["a red ring", "a blue bar moves left a red ring"])


def test_what_cannot_be_encoded_is_named(model: vatt.VATT, silent_file: Path, sound_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{sound_file.name}: there is no video in the video_text space"):
        model.encode_video([silent_file, sound_file])
    with pytest.raises(InputError, match="no audio in the video_text space"):
        model.encode_audio(sound_file, "video_text")
    with pytest.raises(InputError, match=r"nowhere\.mp4"):
        model.encode_video(tmp_path / "nowhere.mp4")
    with pytest.raises(InputError, match="no word"):
        model.encode_text(["a red ring", "  "])
    with pytest.raises(FileNotFoundError, match="not loaded from a directory"):
        tiny_model().encode_text("a red ring")


def test_encoding_a_file_times_out(model: vatt.VATT, video_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(encode_file(model, video_file, time_limit_s=60).start_s) == 3
    with pytest.raises(InputError, match=r"numbered\.mp4: .* took longer than 1e-09 s"):
        encode_file(model, video_file, time_limit_s=1e-9)
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(encoding, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(InputError, match="reading and encoding took longer than 15 s"):  # of 20 s for the second window
        encode_file(model, video_file, time_limit_s=15)


def noise(channels: int, gain: float) -> np.ndarray:
    """(16000, channels): one second of uniform noise, equal in all channels."""
    samples = np.random.default_rng(0).uniform(-gain, gain, (16_000, 1))
    return np.repeat(samples, channels, axis=1).astype(np.float32)


@pytest.mark.parametrize(
    ("samples", "notices"),
    [
        (noise(1, 0.0), ["its audio is silent (peak below -60 dB)"]),
        (noise(1, 0.0005), ["its audio is silent (peak below -60 dB)"]),
        (noise(1, 0.5), []),
        (noise(2, 0.5) * np.float32([1, -1]), ["its audio channels cancel in their mean"]),
        (noise(1, 3.0), ["audio samples are outside [-1, 1], with a peak of 3"]),
    ],
    ids=["digital silence", "quiet", "noise", "opposite channels", "clipped"],
)
def test_silent_and_clipped_audio_is_noticed(
    model: vatt.VATT, tmp_path: Path, samples: np.ndarray, notices: list[str]
) -> None:
    path = tmp_path / "sound.wav"
    wavfile.write(path, 16_000, samples)
    file = encode_file(model, path)
    assert len(file.notices.get("audio", ())) == len(notices)
    assert all(part in notice for part, notice in zip(notices, file.notices.get("audio", ()), strict=True))
    assert not file.notices.get("video")
