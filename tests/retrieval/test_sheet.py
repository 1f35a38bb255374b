from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vatt.errors import InputError
from vatt.retrieval.hits import Hit
from vatt.retrieval.sheet import RIGHT, draw_sheet, write_playlist


def test_a_sheet_frames_the_right_answer_and_no_other(video_file: Path, tmp_path: Path) -> None:
    hits = [Hit(rank, 0.5, name, str(video_file), 0.0, 2.0) for rank, name in ((1, "wrong"), (2, "right"))]
    for right_id, count in (("right", 1), (None, 0)):
        draw_sheet("a query", hits, tmp_path / "sheet.png", right_id)
        picture = np.asarray(Image.open(tmp_path / "sheet.png"))
        green = (picture == RIGHT).all(axis=-1)
        columns = np.flatnonzero(green.sum(axis=0) > 100)  # the uprights of a frame
        assert len(columns) == 10 * count
        assert all(columns > 590)  # the right half, with its margin


def test_a_sheet_is_drawn_when_a_file_is_gone(tmp_path: Path) -> None:
    draw_sheet("a query", [Hit(1, 0.5, "gone", str(tmp_path / "gone.mp4"), 0.0, 2.0)], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()


def test_a_list_plays_every_span(tmp_path: Path) -> None:
    hits = [Hit(1, 0.5, "a", "/videos/a.mp4", 1.5, 4.0), Hit(2, 0.25, "b", "/videos/b.mp4", 0.0, 3.2)]
    write_playlist(hits, tmp_path / "lists" / "answers.m3u")
    assert (tmp_path / "lists" / "answers.m3u").read_text() == (
        "#EXTM3U\n"
        "#EXTINF:3,1. a.mp4 (0.500)\n#EXTVLCOPT:start-time=1.50\n#EXTVLCOPT:stop-time=4.00\n/videos/a.mp4\n"
        "#EXTINF:4,2. b.mp4 (0.250)\n#EXTVLCOPT:start-time=0.00\n#EXTVLCOPT:stop-time=3.20\n/videos/b.mp4\n"
    )
    with pytest.raises(InputError, match="M3U"):
        write_playlist(hits, tmp_path / "answers.txt")
