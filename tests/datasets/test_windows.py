from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.conftest import TINY
from tests.media.test_inspection import write_video
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.loading import crashes
from vatt.datasets.windows import ShardedWindows, Windows, window_starts
from vatt.errors import InputError
from vatt.media.reader import Media
from vatt.structures import Clip


def test_windows_cover_a_clip_to_its_end() -> None:
    assert list(window_starts(0.0, 0.0, 1.0)) == [0.0]
    assert list(window_starts(1.0, 3.0, 1.0)) == [1.0, 2.0, 3.0]
    assert list(window_starts(0.0, 2.5, 1.0)) == [0.0, 1.0, 2.0, 2.5]
    assert list(window_starts(0.0, 0.3, 1.0)) == [0.0, 0.3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("size", "batch_size"), [(100, 4), (2, 1), (3, 4)])
def test_every_window_and_every_error_comes_once(
    clips: list[Clip], tmp_path: Path, workers: int, size: int, batch_size: int
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    rows = [*clips, Clip(id="bad", path=str(tmp_path / "broken.mp4"))]
    shards = range(-(-len(rows) // size))
    stream = ShardedWindows(rows, Windows(ClipReader(TINY), hop_s=1.0), shards, size, batch_size)
    parts = list(DataLoader(stream, batch_size=None, num_workers=workers))
    batches = [part["batch"] for part in parts if part["batch"] is not None]
    found = sorted(
        (n, round(s, 2), round(e, 2))
        for b in batches
        for n, s, e in zip(b["id"], b["start_s"], b["end_s"], strict=True)
    )
    assert found == [
        ("bad", 0.0, 0.0),
        ("part", 1.0, 2.0),
        ("part", 1.5, 2.5),
        ("silent", 0.0, 1.0),
        ("sound", 0.0, 1.0),
        ("sound", 1.0, 2.0),
        ("two files", 0.0, 1.0),
        ("two files", 1.0, 2.0),
        ("whole", 0.0, 1.0),
        ("whole", 1.0, 2.0),
        ("whole", 2.0, 3.0),
    ]
    assert [e["id"] for b in batches for e in b["events"]] == ["bad"]
    for shard in shards:
        mine = [part for part in parts if part["shard"] == shard]
        names = {name for part in mine if part["batch"] for name in part["batch"]["id"]}
        assert names == {clip.id for clip in stream.clips_of(shard)}
        assert sum(part["ends"] for part in mine) == max(1, workers)
        assert all(len(part["batch"]["id"]) <= batch_size for part in mine if part["batch"])


def test_a_shard_is_read_in_the_same_batches_whatever_else_is_read(clips: list[Clip]) -> None:
    windows = Windows(ClipReader(TINY), hop_s=1.0)

    def batches(*shards: int) -> list[list[tuple[str, float]]]:
        parts = ShardedWindows(clips, windows, shards, size=2, batch_size=3)
        read = [part["batch"] for part in parts if part["shard"] == 1 and part["batch"]]
        return [list(zip(batch["id"], batch["start_s"], strict=True)) for batch in read]

    assert batches(0, 1) == batches(1)


def test_crashed_file_is_reported_once_after_resuming_anywhere(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crashes, "_excluded", {clip.path: "it crashed" for clip in clips})
    stream = ShardedWindows(clips, Windows(ClipReader(TINY), hop_s=1.0), [0], size=9, batch_size=1)
    parts = [part for part in stream if part["batch"]]
    assert [name for part in parts for name in part["batch"]["id"]] == [clip.id for clip in clips]
    for number, part in enumerate(parts):
        stream.positions = {0: part["next"]}
        later = [part["batch"]["id"] for part in stream if part["batch"]]
        assert later == [[clip.id] for clip in clips[number + 1 :]]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InputError, match="distance"):
        Windows(ClipReader(TINY), hop_s=0.0)
    with pytest.raises(InputError, match="at least one window"):
        Windows(ClipReader(TINY), hop_s=1.0, count=0)
    with pytest.raises(InputError, match="at least one, not 0 and 2"):
        ShardedWindows([], Windows(ClipReader(TINY), hop_s=1.0), [], size=2, batch_size=0)


def test_the_file_whose_packets_are_read_is_noted(
    tmp_path: Path, silent_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash while the packets of a still video are read must not be attributed to the file of its audio."""
    video = write_video(tmp_path / "still.mp4", [0, 200_000])
    notes: list[str] = []
    reads: list[tuple[str, str]] = []
    monkeypatch.setattr(crashes, "_record_read", lambda path, _: notes.append(path))
    monkeypatch.setattr(Media, "packet_times_s", lambda media: reads.append((media.path, notes[-1])) or np.zeros(1))
    clip = Clip("still", str(video), audio_path=str(silent_file))
    assert [*Windows(ClipReader(TINY), 30.0).of(clip)]
    assert {path for path, _ in reads} == {str(video), str(silent_file)}
    assert all(path == note for path, note in reads)
