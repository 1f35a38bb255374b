"""Rows of the same file and segment are one clip."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.datasets.manifests.conftest import Read, texts
from vatt.errors import ManifestError
from vatt.structures import TimedText


def test_one_row_per_caption(read: Read, tmp_path: Path) -> None:
    rows = [f"{path}.mp4,caption {path} {i % 3}\n" for i in range(4) for path in "ba"]
    clips, warnings = read("clips.csv", "path,text\n" + "".join(rows))
    assert texts(clips) == {f"{path}.mp4": [f"caption {path} {i}" for i in range(3)] for path in "ba"}
    assert [clip.id for clip in clips] == ["b.mp4", "a.mp4"]
    assert warnings == ["8 rows describe 2 clips: rows of one file and segment are one clip"]


def test_a_file_in_several_spellings_is_one_file(read: Read, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    paths = ["a.mp4", "./a.mp4", "link/a.mp4", "link/../" + tmp_path.name + "/a.mp4", str(tmp_path / "a.mp4")]
    paths += [f"file://{tmp_path}/a.mp4"]
    clips, _ = read("clips.csv", "path,text\n" + "".join(f"{path},{i}\n" for i, path in enumerate(paths)))
    assert texts(clips) == {"a.mp4": list("012345")}
    clips, _ = read("other.csv", f"path\n{tmp_path}/a.mp4\nfile://{tmp_path}/a.mp4\nfile://{tmp_path}/b.mp4\n")
    assert len(clips) == 2


def test_segments_splits_and_other_audio_are_other_clips(read: Read) -> None:
    columns = ["path", "start_s", "end_s", "split", "audio_path", "text"]
    rows = ["a.mp4,,,,,0", "a.mp4,0,,,,1", "a.mp4,0,2,,,2", "a.mp4,1,2,,,3", "a.mp4,1.0,2.0,,,4", "a.mp4,,,val,,5"]
    rows += ["a.mp4,,,,b.mp4,6", "a.mp4,,,,./b.mp4,7"]
    clips, _ = read("clips.csv", "\n".join([",".join(columns), *rows]))
    assert list(texts(clips).values()) == [["0", "1"], ["2"], ["3", "4"], ["5"], ["6", "7"]]
    assert [clip.id for clip in clips] == ["a.mp4", "a.mp4@0-2", "a.mp4@1-2", "a.mp4#2", "a.mp4#3"]


def test_splits_that_differ_only_in_case_or_spaces_are_reported(read: Read) -> None:
    splits = ("Train", "train", "train ", "val", None)
    rows = [{"path": f"{path}.mp4", "split": split} for path, split in zip("aabab", splits, strict=True)]
    clips, warnings = read("clips.jsonl", "\n".join(map(json.dumps, rows)))
    assert len(clips) == 5
    (warning,) = warnings
    names = " and ".join(map(repr, sorted({clip.split for clip in clips} - {"val", None})))
    assert warning.startswith(f"column 'split' has {names}, which are different splits")


def test_segments_are_compared_in_milliseconds(read: Read) -> None:
    """0.1 as float32, a sum of floats, and times that differ by a millisecond."""
    spans = [("0.1", "0.3"), ("0.10000000149", "0.30000000000000004"), ("0.101", "0.3"), ("0.0001", ""), ("", "")]
    spans += [("123456.7891", "123457"), ("123456.789", "123457")]
    rows = [f"a.mp4,{start},{end},{i}" for i, (start, end) in enumerate(spans)]
    clips, _ = read("clips.csv", "\n".join(["path,start_s,end_s,text", *rows]))
    assert list(texts(clips).values()) == [["0", "1"], ["2"], ["3", "4"], ["5", "6"]]
    ids = ["a.mp4@0.1-0.3", "a.mp4@0.101-0.3", "a.mp4", "a.mp4@123456.789-123457"]
    assert [clip.id for clip in clips] == ids
    clips, _ = read("one.csv", "path,start_s,end_s\na.mp4,0.10000000149,0.30000000000000004\n")
    assert [clip.id for clip in clips] == ids[:1]


def test_rows_of_a_clip_are_merged_completely(read: Read) -> None:
    rows = [
        {"path": "a.mp4", "label": "dog", "x_year": 2020, "x_source": "web", "text": "one"},
        {"path": "b.mp4", "id": "other"},
        {"path": "a.mp4", "id": "first", "labels": ["cat", "dog"], "x_year": 2021, "x_source": "web"},
        {"path": "a.mp4", "id": "second", "x_year": 2020, "texts": [{"text": "one", "start": 1, "end": 2}, "two"]},
        {"path": "a.mp4", "words": [{"word": "late", "start": 3, "end": 4}], "text": "two"},
        {"path": "a.mp4", "words": [{"word": "early", "start": 1, "end": 2}]},
    ]
    clips, _ = read("clips.jsonl", "\n".join(map(json.dumps, rows)))
    assert [clip.id for clip in clips] == ["first", "other"]
    assert clips[0].labels == ("dog", "cat")
    assert clips[0].extra == {"x_year": [2020, 2021], "x_source": "web", "x_row_ids": ["first", "second"]}
    assert clips[0].texts == (TimedText("one"), TimedText("one", 1.0, 2.0), TimedText("two"))
    assert clips[0].words == (TimedText("early", 1.0, 2.0), TimedText("late", 3.0, 4.0))


def test_an_id_of_two_clips_is_an_error(read: Read) -> None:
    with pytest.raises(ManifestError, match=r"line 3, column 'id': 'x' is the id of another file.* in line 2"):
        read("clips.csv", "path,id\na.mp4,x\nb.mp4,x\n")


def test_missing_values_are_not_merged(read: Read) -> None:
    content = "path,text,x_year,x_fold,x_none\na.mp4,x,2020,1,\na.mp4,y,,,\na.mp4,z,NA,NaN,\na.mp4,v,2020,2,\n"
    assert read("clips.csv", content)[0][0].extra == {"x_year": "2020", "x_fold": ["1", "2"], "x_none": None}
    rows = '{"path": "a.mp4", "x_y": null}\n{"path": "a.mp4", "x_y": 2020.0}\n{"path": "a.mp4", "x_y": "NA"}\n'
    assert read("clips.jsonl", rows)[0][0].extra == {"x_y": [2020, "NA"]}
