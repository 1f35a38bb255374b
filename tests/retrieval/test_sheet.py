from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.loading.crashing import crash_on
from vatt.datasets.loading import isolated
from vatt.errors import InputError
from vatt.media.decoding import open_media
from vatt.retrieval.results import Result
from vatt.retrieval.sheet import RED, RIGHT, check_playlist, check_sheet, draw_sheet, write_playlist


def test_a_sheet_frames_the_right_answer_and_no_other(video_file: Path, tmp_path: Path) -> None:
    hits = [Result(rank, 0.5, name, str(video_file), 0.0, 2.0) for rank, name in ((1, "wrong"), (2, "right"))]
    for right_id, count in (("right", 1), (None, 0)):
        draw_sheet("a query", hits, tmp_path / "sheet.png", right_id)
        picture = np.asarray(Image.open(tmp_path / "sheet.png"))
        green = (picture == RIGHT).all(axis=-1)
        columns = np.flatnonzero(green.sum(axis=0) > 100)  # the uprights of a frame
        assert len(columns) == 10 * count
        assert all(columns > 590)  # the right half, with its margin


def test_sheet_marks_missing_and_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "damaged.mp4").write_bytes(b"no video" * 100)
    reds = []
    for name in ("gone", "damaged"):
        hit = Result(1, 0.5, name, str(tmp_path / f"{name}.mp4"), 0.0, 2.0)
        assert list(draw_sheet("a query", [hit], tmp_path / "sheet.png")) == [hit.path]
        assert draw_sheet("a query", [hit._replace(missing=True)], tmp_path / "missing.png") == {}
        picture = np.asarray(Image.open(tmp_path / "sheet.png"))
        grey, red = (picture == (200, 200, 200)).all(axis=-1), (picture == RED).all(axis=-1)
        assert grey.sum() > 70_000
        assert 50 < red.sum() < 5000  # words
        reds.append(red)
    assert np.array_equal(reds[0], (np.asarray(Image.open(tmp_path / "missing.png")) == RED).all(axis=-1))
    assert not np.array_equal(*reds)  # "file not found" and "file cannot be read"


def test_a_file_that_crashes_the_decoder_has_no_frames_and_is_named(
    video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(path: str) -> Any:
        if path.endswith("crash.mp4"):
            os.kill(os.getpid(), signal.SIGSEGV)
        return open_media(path)

    crash_on(monkeypatch)  # a short interval of checks
    monkeypatch.setattr(isolated, "open_media", opened)
    (tmp_path / "crash.mp4").touch()
    paths = [str(tmp_path / "crash.mp4"), str(video_file)]
    hits = [Result(rank, 0.5, path, path, 0.0, 2.0) for rank, path in enumerate(paths, 1)]
    problems = draw_sheet("a query", hits, tmp_path / "sheet.png")
    assert problems == {paths[0]: "the process that read it was killed by SIGSEGV"}
    gray = (np.asarray(Image.open(tmp_path / "sheet.png")) == (200, 200, 200)).all(axis=-1)
    assert gray[:, :600].sum() > 70_000
    assert gray[:, 600:].sum() < 1000  # edges of letters


def test_unwritable_outputs_are_reported_before_the_search(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    check_sheet(tmp_path / "new" / "sheet.PNG")
    check_playlist("list.m3u8")
    for check, output, match in (
        (check_sheet, tmp_path / "sheet.jpg", "--sheet writes a PNG file, not "),
        (check_playlist, tmp_path / "list.txt", "--play writes an M3U playlist, not "),
        (check_sheet, tmp_path / "file" / "sheet.png", "file is not a directory"),
        (check_sheet, tmp_path / "folder.png", "it is a directory"),
        (check_sheet, tmp_path / ("x" * 296 + ".png"), "File name too long"),
        (check_playlist, tmp_path / ("x" * 240 + ".m3u8"), "File name too long"),  # as its temporary file
        (check_sheet, tmp_path / "new" / ("x" * 300) / "sheet.png", "File name too long"),
        (check_sheet, "/proc/sheet.png", "No such file or directory"),
        (check_playlist, "/proc/new/list.m3u", "No such file or directory"),
    ):
        with pytest.raises(InputError, match=match) as caught:
            check(output)
        assert ".part" not in str(caught.value)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["file", "folder.png"]


def test_playlist_skips_missing_files_and_escapes_names(tmp_path: Path) -> None:
    hits = [
        Result(1, 0.5, "a", "/videos/gone.mp4", 0.0, 1.0, missing=True),
        Result(2, 0.5, "b", "/videos/two\n#EXTINF:1,lines.mp4", 0.0, 1.0),
    ]
    assert write_playlist(hits, tmp_path / "list.m3u") == {"missing": 1}
    lines = (tmp_path / "list.m3u").read_text().splitlines()
    assert len(lines) == 5
    assert lines[1] == "#EXTINF:1,2. two #EXTINF:1,lines.mp4 (0.500)"
    assert lines[4] == "file:///videos/two%0A%23EXTINF%3A1%2Clines.mp4"


def test_a_list_has_what_players_can_open(tmp_path: Path) -> None:
    (tmp_path / "file#1+2").touch()
    paths = [
        "/videos/0.tar#512+90", "https://host/0.tar#512+90", "s3://bucket/a.mp4", "zip://a.mp4::https://host/a.zip",
        "https://host/a.mp4?key=b%20c", "https://host/two\nlines/ä b.mp4?x=1&y=%41", str(tmp_path / "file#1+2"),
    ]  # fmt: skip
    hits = [Result(rank, 0.5, "a", path, 0.0, 1.0) for rank, path in enumerate(paths, start=1)]
    assert write_playlist(hits, tmp_path / "list.m3u") == {
        "inside shards, which players cannot open": 2,
        "at URLs that players cannot open": 2,
    }
    lines = (tmp_path / "list.m3u").read_text().splitlines()
    assert lines[4::4] == [paths[4], "https://host/two%0Alines/%C3%A4%20b.mp4?x=1&y=%41", paths[6]]


def test_an_unknown_span_is_left_out(tmp_path: Path) -> None:
    write_playlist([Result(1, 0.5, "a", "/videos/a.mp4", 0.0, 0.0, "a caption")], tmp_path / "list.m3u")
    assert (tmp_path / "list.m3u").read_text() == "#EXTM3U\n#EXTINF:-1,1. a.mp4 (0.500)\n/videos/a.mp4\n"


def test_a_list_plays_every_span(tmp_path: Path) -> None:
    hits = [Result(1, 0.5, "a", "/videos/a.mp4", 1.5, 4.0), Result(2, 0.25, "b", "/videos/b.mp4", 0.0, 3.2)]
    write_playlist(hits, tmp_path / "lists" / "answers.m3u")
    assert (tmp_path / "lists" / "answers.m3u").read_text() == (
        "#EXTM3U\n"
        "#EXTINF:3,1. a.mp4 (0.500)\n#EXTVLCOPT:start-time=1.50\n#EXTVLCOPT:stop-time=4.00\n/videos/a.mp4\n"
        "#EXTINF:4,2. b.mp4 (0.250)\n#EXTVLCOPT:start-time=0.00\n#EXTVLCOPT:stop-time=3.20\n/videos/b.mp4\n"
    )
    with pytest.raises(InputError, match="M3U"):
        write_playlist(hits, tmp_path / "answers.txt")
