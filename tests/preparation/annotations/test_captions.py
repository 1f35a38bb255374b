"""Sets of videos with texts: YouCook2 and MSR-VTT."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.annotations.conftest import Done
from vatt.structures import Clip

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]

YOUCOOK2 = {
    "database": {
        "-ErPSunMfcs": {
            "subset": "training",
            "recipe_type": "226",
            "duration": 100.5,
            "video_url": "https://www.youtube.com/watch?v=-ErPSunMfcs",
            "annotations": [
                {"segment": [47, 60], "id": 0, "sentence": " pick the ends off "},
                {"segment": [47, 60], "id": 1, "sentence": "chop"},
            ],
        },
        "xHr8X2Wpmno": {
            "subset": "validation",
            "recipe_type": "101",
            "annotations": [{"segment": [0, 9.5], "id": 0, "sentence": "boil"}],
        },
        "zzzzzzzzzzz": {"subset": "testing", "recipe_type": "101"},
    }
}


def texts(clip: Clip) -> list[str]:
    return [text.text for text in clip.texts]


def test_youcook2_json(prepare: Prepare, touch: Touch, save: Save) -> None:
    path = save("youcookii_annotations_trainval.json", json.dumps(YOUCOOK2))
    media = touch("training/226/-ErPSunMfcs.mp4", "validation/101/xHr8X2Wpmno.mkv")
    done = prepare("youcook2", path, media)
    assert [(clip.id, clip.start_s, clip.end_s, texts(clip), clip.split) for clip in done.clips] == [
        ("-ErPSunMfcs@47-60", 47.0, 60.0, ["pick the ends off", "chop"], "train"),
        ("xHr8X2Wpmno@0-9.5", 0.0, 9.5, ["boil"], "val"),
    ]
    assert [clip.extra for clip in done.clips] == [
        {"x_recipe": "226", "x_row_ids": ["-ErPSunMfcs@47-60", "-ErPSunMfcs@47-60#2"]},
        {"x_recipe": "101", "x_list": "youcook2-json"},
    ]
    assert "Videos without annotations: 1 (first: zzzzzzzzzzz)." in done.out
    assert {clip.split for clip in prepare("youcook2", path, media, "--split", "eval").clips} == {"test"}


def test_youcook2_csv(prepare: Prepare, touch: Touch, save: Save) -> None:
    text = 'end,start,task,text,video_id\n60,47,226,"pick, then chop",-ErPSunMfcs\n9,3,226,,-ErPSunMfcs\n'
    path = save("youcook2_val.csv", text)
    done = prepare("youcook2", path, touch("-ErPSunMfcs.webm"))
    assert [(clip.id, texts(clip), clip.split, clip.extra) for clip in done.clips] == [
        ("-ErPSunMfcs@47-60", ["pick, then chop"], "val", {"x_recipe": "226", "x_list": "youcook2"}),
        ("-ErPSunMfcs@3-9", [], "val", {"x_recipe": "226", "x_list": "youcook2"}),
    ]
    assert f"Segments without a sentence: 1 (first: {path}, line 3)." in done.out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segment": [60, 47]}, "xHr8X2Wpmno, segment 0: the end 47 s is not after the beginning 60 s"),
        ({"segment": [60]}, "xHr8X2Wpmno, segment 0: [60] is not [start, end]"),
        ({"sentence": None}, "xHr8X2Wpmno, segment 0: a text is wanted, not 'None'"),
        (None, "xHr8X2Wpmno, segment 0: there is no 'segment', only id"),
        ({"subset": 3}, "xHr8X2Wpmno, subset: a text is wanted, not '3'"),
    ],
)
def test_youcook2_entries_that_are_wrong(
    prepare: Prepare, touch: Touch, save: Save, change: dict[str, object] | None, said: str
) -> None:
    segment = {"segment": [0, 9], "sentence": "boil"} | change if change else {"id": 0}
    database = {"xHr8X2Wpmno": {"subset": segment.pop("subset", "validation"), "annotations": [segment]}}
    path = save("y.json", json.dumps({"database": database}))
    done = prepare("youcook2", path, touch("xHr8X2Wpmno.mp4"))
    assert done.err == f"error: {path}, {said}\n"


def test_youcook2_segments_that_come_again(prepare: Prepare, touch: Touch, save: Save) -> None:
    path, media = save("trainval.json", json.dumps(YOUCOOK2)), touch("-ErPSunMfcs.mp4", "xHr8X2Wpmno.mp4")
    text = "end,start,task,text,video_id\n9.5,0,101,boil,xHr8X2Wpmno\n9.5,0,101,stir,xHr8X2Wpmno\n"
    table = save("youcook2_val.csv", text)
    once = prepare("youcook2", path, media)
    twice = prepare("youcook2", path, path, table, media)
    assert [clip.id for clip in twice.clips] == [clip.id for clip in once.clips]
    assert texts(twice.clips[-1]) == ["boil", "stir"]
    first = f"{path}, -ErPSunMfcs, segment 0"
    assert f"Segments left out as repeated: 4 (first: {first})." in twice.out
    done = prepare("youcook2", path, save("test.csv", text), media)
    assert "test.csv, line 2: the same segment is in split 'val' already, not 'test'" in done.err
    done = prepare("youcook2", save("val.csv", "end,start,text,video_id\n9,0,boil,\n"), media)
    assert "val.csv, line 2: there is no video_id" in done.err


def test_youcook2_test_segments_have_no_sentence(prepare: Prepare, touch: Touch, save: Save) -> None:
    segments = [{"segment": [0, 9], "id": 0}, {"segment": [9, 12], "id": 1}]
    database = {"xHr8X2Wpmno": {"subset": "testing", "recipe_type": None, "annotations": segments}}
    path = save("youcookii_annotations_test_segments_only.json", json.dumps({"database": database}))
    done = prepare("youcook2", path, touch("xHr8X2Wpmno.mp4"))
    assert [(clip.end_s, texts(clip), clip.split, clip.extra) for clip in done.clips] == [
        (9.0, [], "test", {}),
        (12.0, [], "test", {}),
    ]
    assert f"Segments without a sentence: 2 (first: {path}, xHr8X2Wpmno, segment 0)." in done.out


MSRVTT = {
    "videos": [
        {"video_id": f"video{n}", "split": split, "start time": 1.0, "end time": 9.0, "url": f"u{n}", "category": n}
        for n, split in enumerate(["train", "validate", "test", "test"])
    ],
    "sentences": [
        {"video_id": "video0", "caption": "a man talks", "sen_id": 0},
        {"video_id": "video2", "caption": "a dog", "sen_id": 1},
        {"video_id": "video0", "caption": " someone speaks ", "sen_id": 2},
        {"video_id": "video3", "caption": "a cat, asleep", "sen_id": 3},
        {"video_id": "video9", "caption": "nobody", "sen_id": 4},
    ],
}
LIST_1KA = "key,vid_key,video_id,sentence\nret0,msr2,video2,one dog runs\nret1,msr8,video8,a boat\n"


def test_msrvtt_official_splits(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("TrainValVideo/video0.mp4", "TrainValVideo/video1.mp4", "TestVideo/video2.mp4")
    done = prepare("msrvtt", save("MSRVTT_data.json", json.dumps(MSRVTT)), media)
    assert [(clip.id, clip.split, texts(clip)) for clip in done.clips] == [
        ("video0", "train", ["a man talks", "someone speaks"]),
        ("video1", "val", []),
        ("video2", "test", ["a dog"]),
    ]
    assert done.clips[1].extra == {"x_category": 1, "x_url": "u1"}
    assert done.clips[2].extra == {"x_category": 2, "x_url": "u2", "x_list": "msrvtt-full"}
    assert (done.clips[0].start_s, done.clips[0].end_s) == (0.0, None)  # the files are cut already
    assert "Videos without a sentence: 1 (first: video1)." in done.out
    assert "Sentences left out, empty or of a video that is not listed: 1 (first: video9 'nobody')." in done.out
    assert done.missing == [["video3", "video3"]]


def test_msrvtt_1ka(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch(*(f"video{n}.mp4" for n in (0, 1, 2, 3, 8)))
    info, listed = save("MSRVTT_data.json", json.dumps(MSRVTT)), save("1ka.csv", LIST_1KA)
    done = prepare("msrvtt", info, media, "--split_1ka", listed)
    assert [(clip.id, clip.split, texts(clip)) for clip in done.clips] == [
        ("video0", "train", ["a man talks", "someone speaks"]),
        ("video1", "train", []),
        ("video3", "train", ["a cat, asleep"]),
        ("video2", "test", ["one dog runs"]),
        ("video8", "test", ["a boat"]),
    ]
    assert prepare("msrvtt", info, listed, media).clips == done.clips
    alone = prepare("msrvtt", listed, media)
    assert [(clip.id, clip.split) for clip in alone.clips] == [("video2", "test"), ("video8", "test")]
    assert "one list of 1k-A is wanted" in prepare("msrvtt", listed, media, "--split_1ka", listed).err


def test_msrvtt_videos_that_are_listed_twice(prepare: Prepare, touch: Touch, save: Save) -> None:
    media, info = touch("video0.mp4", "video2.mp4"), save("MSRVTT_data.json", json.dumps(MSRVTT))
    listed = {"video_id": "video0", "split": "train"}
    sentences = [{"video_id": "video0", "caption": caption} for caption in ("a man talks", "new", "new")]
    more = save("more.json", json.dumps({"videos": [listed, listed], "sentences": sentences}))
    done = prepare("msrvtt", info, more, media)
    assert [texts(clip) for clip in done.clips] == [["a man talks", "someone speaks", "new", "new"], ["a dog"]]
    said = f"Videos listed again, whose sentences are put together: 2 (first: {more}, video 0, video0)."
    assert said in done.out
    assert "Sentences left out that an earlier file has: 1 (first: video0 'a man talks')." in done.out

    other = save("other.json", json.dumps({"videos": [listed | {"split": "test"}], "sentences": []}))
    done = prepare("msrvtt", info, other, media)
    assert done.err == f"error: {other}, video 0: video0 is in split 'train' already, not 'test'\n"


@pytest.mark.parametrize(
    ("video", "sentence", "said"),
    [
        ({"split": None}, {}, "video 0, split: a text is wanted, not 'None'"),
        ({"video_id": ["x"]}, {}, "video 0, video_id: a text is wanted"),
        ({"video_id": ""}, {}, "video 0: there is no video_id"),
        ({}, {"video_id": ["x"]}, "sentence 0, video_id: a text is wanted"),
    ],
)
def test_msrvtt_values_of_another_type(
    prepare: Prepare, touch: Touch, save: Save, video: dict[str, object], sentence: dict[str, object], said: str
) -> None:
    videos = [{"video_id": "video0", "split": "train"} | video]
    sentences = [{"video_id": "video0", "caption": "a man"} | sentence]
    path = save("m.json", json.dumps({"videos": videos, "sentences": sentences}))
    done = prepare("msrvtt", path, touch("video0.mp4"))
    assert (done.status, done.err.startswith(f"error: {path}, {said}")) == (2, True)


def test_msrvtt_files_that_are_wrong(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("video0.mp4")
    path = save("m.json", '{"videos": [{"video_id": "video0"}], "sentences": []}')
    assert prepare("msrvtt", path, media).err == f"error: {path}, video 0: there is no 'split', only video_id\n"
    assert "m.json: there is no 'videos', only a" in prepare("msrvtt", save("m.json", '{"a": 1}'), media).err
    twice = save("1ka.csv", LIST_1KA + "ret2,msr2,video2,again\n")
    said = f"error: {twice}, line 4: video2 has no sentence, or comes a second time\n"
    assert prepare("msrvtt", twice, media).err == said
