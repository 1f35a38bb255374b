"""What several tests share: small media files, small models, the real data beside the checkout."""

from __future__ import annotations

import functools
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.media.encoding import write_media
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.structures import ClipFormat

CUDA_TESTS = "VATT_CUDA_TESTS"  # environment variable with the device that replaces the GPU in tests


# A shell starts background jobs with Ctrl-C ignored, and so would the commands of the tests.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests that need a GPU if there is none."""
    if torch.cuda.is_available() or CUDA_TESTS in os.environ:
        return
    skip = pytest.mark.skip(reason=f"needs a GPU; {CUDA_TESTS}=cpu runs it on the CPU")
    for item in items:
        if item.get_closest_marker("needs_cuda"):
            item.add_marker(skip)


hypothesis.settings.register_profile("shared", deadline=None)  # a machine that others use is slow at times
hypothesis.settings.load_profile("shared")
torch.set_num_threads(1)  # tensors here are too small to be shared

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("VATT_SHARED", ROOT.parent / "shared"))

# 8 frames at 8 fps and 1 s of sound at 1,024 Hz: 2 x 2 x 2 patches, 8 segments, 6 words
TINY = ClipFormat(num_frames=8, fps=8.0, size=32, sample_rate=1024, num_words=6, num_texts=2)
WORDS = ("a", "red", "green", "blue", "ring", "bar", "moves", "left", "right")


@pytest.fixture(autouse=True)
def _same_randomness() -> Iterator[None]:
    """Every test starts from the same random state and leaves none behind."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data; tests that ask for it are skipped where it is not there."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real data at {SHARED} (set VATT_SHARED to its folder)")
    return SHARED


def numbered_frames(count: int, height: int = 48, width: int = 64) -> np.ndarray:
    """(T, H, W, 3) uint8: the number of each frame as 8 black and white columns, lowest bit first."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number in range(count):
        for bit in range(8):
            if number >> bit & 1:
                frames[number, :, bit * width // 8 : (bit + 1) * width // 8] = 255
    return frames


def read_number(frame: torch.Tensor) -> int:
    """The number in a (3, H, W) frame of `numbered_frames`."""
    columns = frame.float().mean(dim=(0, 1)).reshape(8, -1)[:, 1:-1].mean(dim=1)
    return sum((value > 127).item() << bit for bit, value in enumerate(columns))


def beeps(duration_s: float, sample_rate: int, every_s: float = 0.5, length_s: float = 0.1) -> np.ndarray:
    """(S,) float32: a 1 kHz tone for the first ``length_s`` of every ``every_s``, from the second period on."""
    t = np.arange(round(duration_s * sample_rate)) / sample_rate
    on = (np.mod(t, every_s) < length_s) & (t >= every_s)
    return (0.5 * np.sin(2 * np.pi * 1000 * t) * on).astype(np.float32)


@pytest.fixture(scope="session")
def video_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 s: numbered frames at 25 fps, 16 kHz beeps at 0.5, 1.0, … s."""
    path = tmp_path_factory.mktemp("media") / "numbered.mp4"
    write_media(path, numbered_frames(75), 25, beeps(3.0, 16_000), 16_000, crf=10)
    return path


@pytest.fixture(scope="session")
def silent_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1 s of numbered frames at 10 fps without an audio track."""
    path = tmp_path_factory.mktemp("media") / "silent.mp4"
    write_media(path, numbered_frames(10), 10, crf=10)
    return path


@pytest.fixture(scope="session")
def sound_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 s of beeps without a picture."""
    path = tmp_path_factory.mktemp("media") / "sound.m4a"
    write_media(path, None, 25, beeps(2.0, 16_000), 16_000)
    return path


@pytest.fixture(scope="session")
def uneven_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """1 s of picture with 4 s of sound, and 4 s of picture with 1 s of sound."""
    folder = tmp_path_factory.mktemp("media")
    write_media(folder / "short_picture.mp4", numbered_frames(10), 10, beeps(4.0, 16_000, 0.2), 16_000, crf=10)
    write_media(folder / "short_sound.mp4", numbered_frames(40), 10, beeps(1.0, 16_000, 0.2), 16_000, crf=10)
    return folder / "short_picture.mp4", folder / "short_sound.mp4"


@pytest.fixture
def vocabulary() -> WordVocabulary:
    return WordVocabulary(WORDS)


def tiny_backbone(shared: bool = False, width: int = 16) -> Backbone:
    """For clips of the format TINY."""
    tokenizers = {
        "video": VideoTokenizer(width, grid=(2, 2, 2)),
        "audio": AudioTokenizer(width, length=8),
        "text": TextTokenizer(width, vocabulary_size=len(WORDS) + 2, length=TINY.num_words),
    }
    one = Transformer(width, depth=2, heads=2)
    return Backbone(tokenizers, one if shared else {m: Transformer(width, 2, 2) for m in tokenizers})


SMALL_HEAD = functools.partial(HierarchicalProjection, video_audio=12, video_text=8)


def tiny_model(shared: bool = False) -> VATT:
    backbone = tiny_backbone(shared)
    projection = HierarchicalProjection({m: backbone.width(m) for m in backbone.modalities}, 12, 8)
    return VATT(backbone, projection, TINY).eval()


@pytest.fixture
def model_folder(tmp_path: Path, vocabulary: WordVocabulary) -> Path:
    """A tiny model, saved with its vocabulary."""
    folder = tmp_path / "model"
    tiny_model().save_pretrained(folder)
    vocabulary.save(folder / "vocabulary")
    return folder


def tiny_batch(clips: int = 4) -> dict[str, object]:
    """Random clips of the format TINY, everything valid."""
    text = torch.randint(1, len(WORDS) + 2, (clips, TINY.num_texts, TINY.num_words))
    text[..., 4:] = 0
    return {
        "id": [f"clip{i}" for i in range(clips)],
        "video": torch.rand(clips, TINY.num_frames, 3, TINY.size, TINY.size) * 2 - 1,
        "video_valid": torch.ones(clips, dtype=torch.bool),
        "audio": torch.rand(clips, TINY.num_samples) * 2 - 1,
        "audio_valid": torch.ones(clips, dtype=torch.bool),
        "text": text,
        "text_valid": torch.ones(clips, TINY.num_texts, dtype=torch.bool),
        "events": [],
    }
