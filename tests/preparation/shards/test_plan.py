from __future__ import annotations

import datetime
import math
import os
from pathlib import Path

import pytest

from vatt.datasets.manifest import read_manifest, write_manifest
from vatt.errors import InputError, ManifestError
from vatt.media.transcode import Encoding
from vatt.preparation.shards.plan import Plan, make_plan, pieces, shifted
from vatt.structures import Clip, TimedText

HOUR_S = 3600.0


def clip(start_s: float = 0.0, end_s: float | None = None, texts: tuple[TimedText, ...] = (), path: str = "a") -> Clip:
    return Clip(id=f"{path}@{start_s}", path=path, start_s=start_s, end_s=end_s, texts=texts)


def test_short_spans_of_a_long_file_are_cut_out() -> None:
    clips = [clip(100, 110), clip(3590), clip(105, 120), clip(0.0, 5.0)]
    assert pieces([4, 5, 6, 7], clips, HOUR_S) == [(100, 120, [4, 6]), (3590, math.inf, [5]), (0, 5, [7])]


@pytest.mark.parametrize(
    "clips",
    [
        [clip()],
        [clip(10, 20), clip()],
        [clip(0, 1000), clip(900, 2000)],
        [clip(1700)],
        [clip(72 * i, 72 * i + 36) for i in range(50)],  # just half of it
        [clip(3000, 3010, (TimedText("said at the beginning", 2.0, 4.0),))],
    ],
)
def test_a_file_that_is_needed_in_large_part_stays_whole(clips: list[Clip]) -> None:
    rows = list(range(len(clips)))
    assert pieces(rows, clips, HOUR_S) == [(0.0, math.inf, rows)]


def test_a_piece_reaches_back_to_the_first_text() -> None:
    words = clip(100, 110, (TimedText("one", 98.5, 99.0), TimedText("two"), TimedText("three", 109.0, 112.0)))
    assert pieces([0], [words], HOUR_S) == [(98.5, 110, [0])]


def test_times_move_together_and_can_be_read_again(tmp_path: Path) -> None:
    old = Clip(
        id="x",
        path="a.mp4",
        start_s=30.1,
        end_s=40.1,
        texts=(TimedText("whole"), TimedText("part", 30.1, 33.0)),
        words=(TimedText("word", 39.9, 41.0),),
        labels=("dog",),
        split="train",
        extra={"x_mine": [1, 2]},
    )
    new = shifted(old, 30.1)
    assert (new.start_s, new.end_s) == (0.0, 10.0)
    assert new.texts == (TimedText("whole"), TimedText("part", 0.0, 2.9))
    assert new.words == (TimedText("word", 9.8, 10.9),)
    assert (new.id, new.labels, new.split, new.extra) == ("x", ("dog",), "train", {"x_mine": [1, 2]})
    assert _written(new, tmp_path) == shifted(_written(old, tmp_path), 30.1)
    assert shifted(old, 0.0) is old
    with pytest.raises(ManifestError, match="is not a time"):  # why a piece has to begin with its first text
        _written(shifted(old, 31.0), tmp_path)


def _written(clip: Clip, folder: Path) -> Clip:
    write_manifest([clip], folder / "clips.jsonl")
    return read_manifest(folder / "clips.jsonl", check_files=False)[0]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(bytes(400_000))
    (tmp_path / "film.mp4").write_bytes(bytes(9_000_000))
    return tmp_path


def plan(files: Path, clips: list[Clip], shard_mb: float = 1.0, encoding: Encoding = Encoding()) -> Plan:  # noqa: B008
    return make_plan(clips, files, encoding, shard_mb)


def numbers(found: Plan) -> list[list[tuple[int, ...]]]:
    return [[source.rows for source in shard] for shard in found.shards]


def test_shards_are_filled_in_order_by_size(files: Path) -> None:
    clips = [clip(path=str(files / f"{number}.mp4")) for number in range(6)]
    assert numbers(plan(files, clips)) == [[(0,), (1,)], [(2,), (3,)], [(4,), (5,)]]
    assert numbers(plan(files, clips, 100)) == [[(0,), (1,), (2,), (3,), (4,), (5,)]]
    assert numbers(plan(files, clips, 0.001)) == [[(number,)] for number in range(6)]
    assert plan(files, clips).size == 2_400_000


def test_rows_of_a_file_stay_together_and_count_once(files: Path) -> None:
    film, other = str(files / "film.mp4"), str(files / "0.mp4")
    clips = [clip(0, 1, path=film), clip(path=other), clip(0.5, 2, path=film), clip(path=str(files / "1.mp4"))]
    assert numbers(plan(files, clips)) == [[(0, 2), (1,), (3,)]]  # 0.2 + 0.4 + 0.4 MB
    clips[2] = clip(path=film)
    assert numbers(plan(files, clips)) == [[(0, 2)], [(1,), (3,)]]


def test_the_same_picture_with_another_sound_is_another_source(files: Path) -> None:
    path, sound = str(files / "0.mp4"), str(files / "1.mp4")
    found = plan(files, [clip(path=path), Clip(id="b", path=path, audio_path=sound)], 10)
    assert [(source.rows, source.size) for source in found.shards[0]] == [((0,), 400_000), ((1,), 800_000)]
    assert found.size == 800_000  # of all files


def test_files_that_are_not_there_are_left_out(files: Path) -> None:
    clips = [clip(path=str(files / "gone.mp4")), clip(path=str(files / "0.mp4"))]
    found = plan(files, clips)
    assert numbers(found) == [[(1,)]]
    assert [(event["kind"], event["reason"]) for event in found.left_out] == [("missing", "No such file or directory")]


def test_what_must_be_the_same_to_go_on(files: Path) -> None:
    clips = [clip(path=str(files / "0.mp4")), clip(path=str(files / "1.mp4"))]
    facts = plan(files, clips).facts
    assert plan(files, clips).facts == facts
    assert plan(files, clips, 2.0).facts["options"] != facts["options"]
    assert plan(files, clips[::-1]).facts["manifest"] != facts["manifest"]
    assert plan(files, [clips[0], clip(0, 1, path=clips[1].path)]).facts["manifest"] != facts["manifest"]
    os.utime(files / "0.mp4", (1, 1))
    assert plan(files, clips).facts["files"] != facts["files"]
    (files / "0.mp4").write_bytes(bytes(400_001))
    changed = plan(files, clips).facts
    assert changed["files"] != facts["files"]
    assert changed["manifest"] == facts["manifest"]


def test_a_value_that_is_not_json_is_named_before_any_work(files: Path) -> None:
    day = Clip(id="b", path=str(files / "0.mp4"), extra={"x_day": datetime.date(2026, 1, 1)})
    with pytest.raises(InputError, match="row 'b': Object of type date"):
        plan(files, [day])
