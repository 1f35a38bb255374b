"""Files that are cut, flipped, mixed up, or whose headers tell absurd things: read, or named with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.mutating import KINDS, mutate, write_good
from tests.conftest import TINY, tiny_model
from tests.media.test_inspection import every, remux, write_video
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset
from vatt.datasets.transforms import NO_AUGMENT
from vatt.datasets.windows import STILL_S, Windows
from vatt.media.decoding import open_media
from vatt.media.demuxing import MediaInput
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file
from vatt.retrieval.embeddings import embed
from vatt.structures import Clip

MOST_WINDOWS = 200  # of files of 2 s, some of which are said to last for ages


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return write_good(tmp_path_factory.mktemp("good"))


@pytest.mark.parametrize("seed", [1, 2])
def test_every_spoilt_file_is_read_or_named(
    good: dict[str, bytes], tmp_path: Path, video_file: Path, seed: int
) -> None:
    """Scan, windows and training draws: nothing but what is told apart is ever raised."""
    reader, whole = ClipReader(TINY, time_limit_s=5.0), Clip(id="whole", path=str(video_file))
    for path, kind in mutate(good, tmp_path, len(KINDS), seed).items():
        clip, what = Clip(id=path.name, path=str(path)), f"{kind}: {path.name}"
        facts = scan_file(str(path), 3, 5.0)
        assert (facts.status == "ok") != bool(facts.reason), what
        samples = list(Windows(reader, TINY.duration_s).of(clip))
        assert 1 <= len(samples) <= MOST_WINDOWS, what
        events = [event for sample in samples for event in sample["events"]]
        assert all(event["reason"] for event in events), what
        assert events or not any(reader.is_empty(sample) for sample in samples), what
        (drawn,) = ClipDataset([clip, whole], reader, NO_AUGMENT).draw(0, 0)
        assert not reader.is_empty(drawn), what
        assert drawn["id"] == clip.id or drawn["events"][0]["id"] == clip.id, what


def test_every_spoilt_file_is_embedded_or_named(good: dict[str, bytes], tmp_path: Path) -> None:
    kinds = {path.name: kind for path, kind in mutate(good, tmp_path / "files", len(KINDS), seed=3).items()}
    (tmp_path / "files" / "whole.mp4").write_bytes(good["h264.mp4"])
    manifest = tmp_path / "clips.csv"
    manifest.write_text("id,path\n" + "".join(f"{name},files/{name}\n" for name in [*kinds, "whole.mp4"]))
    report = embed(manifest, tiny_model(), tmp_path / "out", num_workers=0)
    refused = {event["id"] for event in report.unreadable if event["reason"]}
    assert {name for name, kind in kinds.items() if kind in ("empty", "no media by content")} <= refused
    assert not refused & {name for name, kind in kinds.items() if kind in ("untouched", "wrong extension")}
    assert report.embedded + len(refused) == report.clips + len(refused & embedded(tmp_path / "out"))


def embedded(folder: Path) -> set[str]:
    import pyarrow.parquet as pq

    return set(pq.read_table(folder / "embeddings.parquet", columns=["id"]).column("id").to_pylist())


def test_tracks_that_begin_later_end_no_reading(video_file: Path) -> None:
    class Later:
        """PyAV's containers, when a track has begun since they were opened."""

        def demux(self) -> Iterator[int]:
            yield from (1, 2)
            raise IndexError("list index out of range")

    with MediaInput(str(video_file)) as media:
        media.container, container = Later(), media.container
        assert list(media.demux()) == [1, 2]
        media.container = container


def test_a_header_that_promises_ages_is_not_believed(video_file: Path, tmp_path: Path) -> None:
    path = remux(video_file, tmp_path / "long.mkv")
    data = bytearray(path.read_bytes())
    at = data.index(b"\x44\x89\x88") + 3  # Matroska's duration, in milliseconds as a double
    data[at : at + 8] = bytes.fromhex("426d1a94a2000000")  # 1e12
    path.write_bytes(data)
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(3.0, abs=0.1)
    assert len(list(Windows(ClipReader(TINY), 1.0).of(Clip(id="long", path=str(path))))) in (3, 4)


def test_times_that_no_file_of_that_size_can_have_are_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "jump.mkv", [*every(40), 10**9])
    with pytest.raises(MediaError, match="its timestamps reach 1000000 s"):
        open_media(path)
    (sample,) = Windows(ClipReader(TINY), 1.0).of(Clip(id="jump", path=str(path)))
    assert [event["kind"] for event in sample["events"]] == ["unreadable"]


def test_where_nothing_happens_for_long_there_are_no_windows(tmp_path: Path) -> None:
    """Two seconds, a gap of half an hour, two seconds: of the gap only its first minute is looked at."""
    later = [1_800_000 + at for at in every(40)]
    path = write_video(tmp_path / "gap.mkv", every(40) + later, noise=True)
    samples = list(Windows(ClipReader(TINY), 1.0).of(Clip(id="gap", path=str(path))))
    starts = [sample["start_s"] for sample in samples]
    assert all(start_s <= STILL_S + 4 or start_s >= 1800 for start_s in starts)
    assert [start_s for start_s in starts if start_s < 5] == [0, 1, 2, 3, 4]
    assert [round(start_s) for start_s in starts if start_s > 1700] == [1800, 1801]
    assert [event["kind"] for sample in samples for event in sample["events"]] == ["skipped"]


def test_a_rate_that_cannot_be_converted_is_named(good: dict[str, bytes], tmp_path: Path) -> None:
    data = bytearray(good["sound.wav"])
    at = data.index(b"WAVEfmt ") + 16
    data[at : at + 4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "fast.wav").write_bytes(data)
    with open_media(tmp_path / "fast.wav") as media, pytest.raises(MediaError, match="cannot be converted"):
        media.waveform(0.0, 1.0, 8000)


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1, 0.3])
def test_a_file_cut_near_its_beginning_is_described(good: dict[str, bytes], tmp_path: Path, share: float) -> None:
    """Of the first packets of sound all may lie before the file begins to play."""
    path, data = tmp_path / "cut.mkv", good["h264.mkv"]
    path.write_bytes(data[: int(share * len(data))])
    assert scan_file(str(path), 3, 5.0).status in ("truncated", "unreadable")
