from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.preparation.annotations.conftest import Done
from vatt.errors import InputError
from vatt.structures import TimedText

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]

VIDEOS = (
    "video_id,category_1,category_2,rank,task_id\r\n"
    "-tCQ4tCQdWE,Cars & Other Vehicles,Motorcycles,27,52907\r\n"
    '_97kyZVWVG0,"Food, Entertaining",,6,25938\r\n'
    "gkjnR3-ZVts,Hobbies and Crafts,Crafts,34,119814\r\n"
)
# the first is out of order, the third overlaps the second, the fourth is empty, the fifth ends before it begins
FIRST = {
    "start": [5.9, 0.41, 3.5, 6, 20],
    "end": [10.25, 3.91, 5.9, 7, 10],
    "text": ["bowl night", "check pic", " pick bowl\n", " ", "no"],
}
CLEAN = (TimedText("check pic", 0.41, 3.91), TimedText("pick bowl", 3.5, 5.9), TimedText("bowl night", 5.9, 10.25))


@pytest.fixture
def listed(save: Save) -> Path:
    return save("HowTo100M_v1.csv", VIDEOS)


def test_one_file_a_video(prepare: Prepare, touch: Touch, save: Save, listed: Path) -> None:
    save("captions/-tCQ4tCQdWE.json", json.dumps(FIRST))
    folder = save("captions/_97kyZVWVG0.csv", 'start,end,text\n1.5,2,"stir, then"\n').parent
    done = prepare("howto100m", listed, touch("a/-tCQ4tCQdWE.mp4", "_97kyZVWVG0.webm"), "--captions", folder)
    assert [(clip.id, clip.texts, clip.start_s, clip.end_s, clip.split) for clip in done.clips] == [
        ("-tCQ4tCQdWE", CLEAN, 0.0, None, None),
        ("_97kyZVWVG0", (TimedText("stir, then", 1.5, 2.0),), 0.0, None, None),
    ]
    assert done.clips[0].extra == {
        "x_category_1": "Cars & Other Vehicles",
        "x_category_2": "Motorcycles",
        "x_rank": "27",
        "x_task_id": "52907",
    }
    assert "x_category_2" not in done.clips[1].extra
    assert done.missing == [["gkjnR3-ZVts", "gkjnR3-ZVts"]]
    assert "2 rows (no split), 0 labels, 4 texts" in done.out
    assert "Captions left out as empty: 1 " in done.out
    assert "Captions left out as their times cannot be: 1 (first: " in done.out
    assert "-tCQ4tCQdWE.json, 20 to 10)" in done.out
    assert "Captions that begin before the one before has ended (kept): 1 " in done.out


def test_one_big_file(prepare: Prepare, touch: Touch, save: Save, listed: Path) -> None:
    second = '{"start": [1], "end": [2.5], "text": [NaN]}'
    other = '{"start": "of a video without a file"}'
    text = f'{{"_97kyZVWVG0": {second}, "gkjnR3-ZVts": {other}, "unlisted": {{}}, "-tCQ4tCQdWE": {json.dumps(FIRST)}}}'
    media = touch("-tCQ4tCQdWE.mp4", "_97kyZVWVG0.mp4")
    done = prepare("howto100m", listed, media, "--captions", save("caption.json", text))
    assert [(clip.id, clip.texts) for clip in done.clips] == [("_97kyZVWVG0", ()), ("-tCQ4tCQdWE", CLEAN)]
    assert "Captions left out as empty: 2 " in done.out
    assert "Captions left out of videos that are not in the list: 1 (first: unlisted)." in done.out
    assert [name for name, _ in done.missing] == ["gkjnR3-ZVts"]


def test_videos_without_captions_stay(prepare: Prepare, touch: Touch, save: Save, listed: Path) -> None:
    media = touch("-tCQ4tCQdWE.mp4", "_97kyZVWVG0.mp4")
    captions = save("captions/-tCQ4tCQdWE.json", json.dumps(FIRST)).parent
    done = prepare("howto100m", listed, media, "--captions", captions)
    assert [len(clip.texts) for clip in done.clips] == [3, 0]
    assert "Videos without captions: 1 (first: _97kyZVWVG0)." in done.out
    done = prepare("howto100m", listed, media)
    assert [len(clip.texts) for clip in done.clips] == [0, 0]
    again = save("HowTo100M_v1.csv", VIDEOS + "-tCQ4tCQdWE,Cars,,1,1\n")
    done = prepare("howto100m", again, media)
    assert f"Lines left out of a video that comes a second time: 1 (first: {again}, line 5)." in done.out


def test_captions_that_come_twice(prepare: Prepare, touch: Touch, save: Save, listed: Path) -> None:
    one, two = (json.dumps({"start": [1], "end": [2], "text": [text]}) for text in ("one", "two"))
    text = f'{{"-tCQ4tCQdWE": {one}, "gkjnR3-ZVts": {one}, "-tCQ4tCQdWE": {two}, "gkjnR3-ZVts": {two}}}'
    done = prepare("howto100m", listed, touch("-tCQ4tCQdWE.mp4"), "--captions", save("caption.json", text))
    assert [clip.texts for clip in done.clips] == [(TimedText("one", 1.0, 2.0),)]
    assert "Captions left out of a video that comes a second time: 2 (first: -tCQ4tCQdWE)." in done.out
    assert "not in the list" not in done.out

    save("captions/-tCQ4tCQdWE.csv", "start,end,text\n1,2,one\n")
    folder = save("captions/-tCQ4tCQdWE.json", two).parent
    done = prepare("howto100m", listed, touch("-tCQ4tCQdWE.mp4"), "--captions", folder)
    assert [clip.texts for clip in done.clips] == [(TimedText("one", 1.0, 2.0),)]
    said = "Videos with several files of captions, of which the first is taken: 1 "
    assert f"{said}(first: -tCQ4tCQdWE.csv, -tCQ4tCQdWE.json)." in done.out


@pytest.mark.parametrize(
    ("captions", "said"),
    [
        ('{"-tCQ4tCQdWE": {"start": [1], "end": [2], "text": []}}', "start, end and text are not lists of one length"),
        ('{"-tCQ4tCQdWE": {"start": [1], "end": [2]}}', "-tCQ4tCQdWE: there is no 'text', only start, end"),
        ('{"-tCQ4tCQdWE": {"start": 1, "end": 2, "text": "x"}}', "start, end and text are not lists of one length"),
        ('{"a": {}, "b": {"start": [1], "en', "caption.json: not JSON after the key 'a': "),
        ('{"a": {}, ', "caption.json: not JSON after the key 'a': it ends too early"),
        ('{"a": oh}', "caption.json: not JSON after the key None: "),
        ('{"a": {}, 1: {}}', "caption.json: after the key 'a': '1' is no text that can be a key"),
        ('{["a"]: {}}', "is no text that can be a key"),
        ("[1, 2]", "caption.json: not a JSON object but '[1, 2]'"),
        ("", "caption.json: not JSON after the key None: it ends too early"),
    ],
)
def test_captions_that_are_wrong(
    prepare: Prepare, touch: Touch, save: Save, listed: Path, captions: str, said: str
) -> None:
    done = prepare("howto100m", listed, touch("-tCQ4tCQdWE.mp4"), "--captions", save("caption.json", captions))
    assert done.status == 2
    assert said in done.err


@pytest.mark.parametrize("size", [1, 2, 7, 64, 2**20])
def test_a_big_file_is_the_same_in_pieces_of_any_size(save: Save, size: int) -> None:
    content = {'"quoted", {': {"a": [1, {"b": "}"}]}, "ünï": {}, "c\\": {"d": ["{", "\\", ","]}}
    read_big = runpy.run_path(str(ROOT / "data/howto100m/prepare.py"))["read_big"]
    for indent in (None, 2):
        path = save("big.json", json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
        assert dict(read_big(path, size)) == content
    assert dict(read_big(save("big.json", " { } "), size)) == {}
    with pytest.raises(InputError):
        list(read_big(save("big.json", json.dumps(content)[:-1]), size))
