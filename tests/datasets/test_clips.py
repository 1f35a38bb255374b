from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from tests.conftest import TINY
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, DataError, MixedDataset, Views
from vatt.datasets.loading.batches import collate
from vatt.datasets.loading.sampling import Mix, Shuffled, StepSampler
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.datasets.transforms import Augment
from vatt.errors import InputError
from vatt.structures import Clip, TimedText


def test_a_cache_is_not_filled_by_decord(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="supports only decoder pyav"):
        ClipReader(TINY, None, "decord", cache=str(tmp_path))


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else a[k] == b[k] for k in a)


def test_a_sample_holds_what_its_clip_has(clips: list[Clip], vocabulary: WordVocabulary) -> None:
    dataset = ClipDataset(clips, ClipReader(TINY, vocabulary))
    samples = [dataset[i][0] for i in range(len(clips))]
    facts = [(s["video_valid"].item(), s["audio_valid"].item(), s["text_valid"].any().item()) for s in samples]
    assert facts == [
        (True, True, True),
        (True, True, True),
        (True, False, False),
        (False, True, True),
        (True, True, False),
    ]
    batch = collate([dataset[i] for i in range(len(clips))])
    assert batch["id"] == ["whole", "part", "silent", "sound", "two files"]
    assert batch["video"].shape == (5, 8, 3, 32, 32)
    assert batch["audio"].shape == (5, 1024)
    assert batch["text"].shape == (5, 2, 6)
    assert batch["events"] == []


def test_without_a_vocabulary_there_is_no_text(clips: list[Clip]) -> None:
    assert "text" not in collate([ClipDataset(clips, ClipReader(TINY))[0]])


def test_training_windows_lie_inside_the_clip(clips: list[Clip]) -> None:
    dataset = ClipDataset(clips, ClipReader(TINY), Augment(), windows=3)
    seen = []
    original = dataset.reader.read
    dataset.reader.read = lambda clip, files, start_s, *rest: (
        seen.append(start_s) or original(clip, files, start_s, *rest)
    )  # type: ignore[method-assign]
    for epoch in range(10):
        assert len(dataset.draw(1, epoch)) == 3
    assert all(1.0 <= start_s <= 1.5 for start_s in seen)
    assert all(a < b for a, b in zip(seen[0::3], seen[1::3], strict=True))
    assert len(set(seen)) == 30


def test_the_same_key_gives_the_same_sample_and_another_pass_another(clips: list[Clip]) -> None:
    dataset = ClipDataset(clips, ClipReader(TINY), Augment(gain_db=6), seed=3)
    assert same(dataset.draw(0, 0)[0], dataset.draw(0, 0)[0])
    assert not same(dataset.draw(0, 0)[0], dataset.draw(0, 1)[0])
    assert not same(
        dataset.draw(0, 0)[0], ClipDataset(clips, ClipReader(TINY), Augment(gain_db=6), seed=4).draw(0, 0)[0]
    )


def test_training_replaces_what_it_cannot_read_and_names_it(clips: list[Clip], tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    bad = Clip(id="bad", path=str(tmp_path / "broken.mp4"))
    dataset = ClipDataset([bad, *clips[:2]], ClipReader(TINY), Augment())
    first, again = dataset.draw(0, 0)[0], dataset.draw(0, 0)[0]
    assert first["id"] in ("whole", "part")
    assert same(first, again)
    assert (first["events"][0]["kind"], first["events"][0]["id"]) == ("unreadable", "bad")
    with pytest.raises(DataError, match=r"3 clips in a row cannot be read, the last: .*broken.mp4"):
        ClipDataset([bad], ClipReader(TINY), Augment(), max_replacements=2)[0]


def test_evaluation_never_replaces(tmp_path: Path, vocabulary: WordVocabulary) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    bad = Clip(id="bad", path=str(tmp_path / "broken.mp4"), texts=(TimedText("a"),))
    sample = ClipDataset([bad], ClipReader(TINY, vocabulary))[0][0]
    assert sample["id"] == "bad"
    assert not (sample["video_valid"] | sample["audio_valid"] | sample["text_valid"].any())
    assert sample["events"][0]["kind"] == "unreadable"


def test_a_clip_beyond_the_end_of_its_file_is_named(video_file: Path) -> None:
    clip = Clip(id="late", path=str(video_file), start_s=30.0)
    event = ClipDataset([clip], ClipReader(TINY))[0][0]["events"][0]
    assert "begins at 30 s, the file ends at 3" in event["reason"]


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_batches_do_not_depend_on_the_workers(clips: list[Clip], workers: int, context: str) -> None:
    if workers == 0 and context == "spawn":
        pytest.skip("no process is started")
    first = ClipDataset(clips[:3], ClipReader(TINY), Augment(gain_db=6), seed=1)
    dataset = MixedDataset([first, ClipDataset(clips[3:], ClipReader(TINY), Augment(), seed=2)])
    sampler = StepSampler([Shuffled(3, 1), Shuffled(len(clips) - 3, 2)], 2, 3, Mix([2, 1], 0))
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        multiprocessing_context=context if workers else None,
    )
    expected = [collate([dataset[key] for key in keys]) for keys in sampler]
    batches = list(loader)
    assert len(batches) == 3
    assert all(same(a, b) for a, b in zip(batches, expected, strict=True))


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(("modality", "file"), [("video", 0), ("audio", 1)])
def test_windows_of_one_modality_lie_in_its_own_track(
    uneven_files: tuple[Path, Path], tmp_path: Path, modality: str, file: int, cached: bool
) -> None:
    """A track of 1 s in a file of 4 s, in windows of 1 s."""
    reader = ClipReader(TINY, modalities=(modality,), cache=str(tmp_path) if cached else None)
    clip = Clip("a", str(uneven_files[file]))
    dataset = ClipDataset([clip], reader, Augment())
    for number in range(10):
        assert dataset.draw(0, number)[0]["events"] == []
    samples = ClipDataset([clip], reader, views=Views(temporal=4))[0]
    assert all(sample[f"{modality}_valid"] for sample in samples)
    assert all(sample["events"] == [] for sample in samples)


def test_the_other_modality_is_not_opened(silent_file: Path, sound_file: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    for modality, clip in (
        ("video", Clip("a", str(silent_file), audio_path=str(broken))),
        ("audio", Clip("a", str(broken), audio_path=str(sound_file))),
    ):
        (sample,) = ClipDataset([clip], ClipReader(TINY, modalities=(modality,)))[0]
        assert sample["events"] == []
        assert sample[f"{modality}_valid"]
