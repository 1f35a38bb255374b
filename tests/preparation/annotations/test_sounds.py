"""AudioSet and ESC-50."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.annotations.conftest import Done

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]

SEGMENTS = (
    "# Segments csv created Sun Mar  5 10:54:31 2017\r\n"
    "# num_ytids=3, num_segs=3, num_unique_labels=3, num_positive_labels=4\r\n"
    "# YTID, start_seconds, end_seconds, positive_labels\r\n"
    '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\r\n'
    '_-Ab#cdefgh, 0.000, 8.500, "/m/05zppz"\r\n'
    'Ybbbbbbbbbb, 370.000, 380.000, "/m/09x0r"\r\n'
)
CLASSES = 'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n72,/t/dd00088,"Gush"\n'


@pytest.fixture
def segments(save: Save) -> Path:
    return save("balanced_train_segments.csv", SEGMENTS)


@pytest.fixture
def classes(save: Save) -> list[object]:
    return ["--classes", save("class_labels_indices.csv", CLASSES)]


def test_audioset_whole_videos(prepare: Prepare, touch: Touch, segments: Path, classes: list[object]) -> None:
    media = touch("--PJHxphWEs.mp4", "_-Ab#cdefgh.mkv")
    done = prepare("audioset", segments, media, *classes)
    first, second = done.clips
    assert (first.id, first.start_s, first.end_s) == ("--PJHxphWEs@30-40", 30.0, 40.0)
    assert (first.labels, first.split, first.extra) == (("Speech", "Gush"), "train", {"x_subset": "balanced_train"})
    assert (second.id, second.start_s, second.end_s) == ("_-Ab#cdefgh@0-8.5", 0.0, 8.5)
    assert second.labels == ("Male speech, man speaking",)
    assert done.missing[0][0] == "Ybbbbbbbbbb@370-380"
    assert "Spans of files named by the id alone: 2" in done.out

    done = prepare("audioset", segments, media, *classes, "--cuts")
    assert [(clip.start_s, clip.end_s) for clip in done.clips] == [(0.0, None)] * 2


@pytest.mark.parametrize(
    "name",
    [
        "--PJHxphWEs_30.mp4",
        "--PJHxphWEs_30000.wav",
        "Y--PJHxphWEs.wav",
        "--PJHxphWEs_30.000_40.000.flac",
        "Y--PJHxphWEs_30.000_40.000.wav",
        "--PJHxphWEs_30000_40000.flac",
        "balanced/--PJHxphWEs_000030.mp4",
        "--PJHxphWEs_000030_000040.mp4",
        "--PJHxphWEs_30_40.mp4",
        "--PJHxphWEs_30.0_40.0.mp4",
        "--PJHxphWEs_30-40.mp4",
        "Y--PJHxphWEs_30.0-40.0.wav",
        "--PJHxphWEs_30.000-40.000.wav",
    ],
)
def test_audioset_cuts(prepare: Prepare, touch: Touch, segments: Path, classes: list[object], name: str) -> None:
    media = touch(name, "--PJHxphWEs_60.mp4", "--PJHxphWEs.mp4")
    (clip,) = prepare("audioset", segments, media, *classes).clips
    assert clip.path == str(media / name)
    assert (clip.id, clip.start_s, clip.end_s) == ("--PJHxphWEs@30-40", 0.0, None)


def test_audioset_several_files_and_splits(prepare: Prepare, touch: Touch, save: Save, classes: list[object]) -> None:
    train = save("unbalanced_train_segments.csv", SEGMENTS)
    test = save("eval_segments.csv", 'zzzzzzzzzzz, 1.000, 11.000, "/m/09x0r"\n')
    media = touch("train/--PJHxphWEs_30.mp4", "eval/zzzzzzzzzzz_1.mp4")
    done = prepare("audioset", train, test, media, *classes)
    assert [(clip.split, clip.extra["x_subset"]) for clip in done.clips] == [
        ("train", "unbalanced_train"),
        ("test", "eval"),
    ]
    odd = save("mine.csv", "zzzzzzzzzzz,1,11,/m/09x0r,/m/05zppz\n")
    assert "mine.csv: its name does not say which split it is" in prepare("audioset", odd, media, *classes).err
    (clip,) = prepare("audioset", odd, media, *classes, "--split", "valid").clips
    assert (clip.split, clip.labels) == ("val", ("Speech", "Male speech, man speaking"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (', 1.0, 11.0, "/m/09x0r"', "there is no YTID"),
        ("zzzzzzzzzzz, 1.0, 11.0", "is not 'id, start, end, \"labels\"'"),
        ('zzzzzzzzzzz, 1.0, 11.0, "/m/unknown"', "the file of the classes does not have '/m/unknown'"),
        ('zzzzzzzzzzz, 11.0, 1.0, "/m/09x0r"', "the end 1 s is not after the beginning 11 s"),
    ],
)
def test_audioset_lines_that_are_wrong(
    prepare: Prepare, touch: Touch, save: Save, classes: list[object], line: str, said: str
) -> None:
    path = save("eval_segments.csv", f"# YTID\n{line}\n")
    done = prepare("audioset", path, touch("zzzzzzzzzzz.mp4"), *classes)
    assert done.status == 2
    assert done.err.startswith(f"error: {path}, line 2: ")
    assert said in done.err


def test_audioset_a_cut_that_two_segments_share(
    prepare: Prepare, touch: Touch, save: Save, classes: list[object]
) -> None:
    path = save("eval_segments.csv", 'zzzzzzzzzzz, 1, 11, "/m/09x0r"\nzzzzzzzzzzz, 30, 40, "/m/05zppz"\n')
    media = touch("zzzzzzzzzzz.mp4")
    said = "Rows whose file, taken whole as a cut, is that of an earlier row too: 1 (first: zzzzzzzzzzz@30-40)."
    assert said in prepare("audioset", path, media, *classes, "--cuts").out
    assert "taken whole" not in prepare("audioset", path, media, *classes).out
    touch("zzzzzzzzzzz_30.mp4")
    assert "taken whole" not in prepare("audioset", path, media, *classes, "--cuts").out


ESC50 = (
    "filename,fold,target,category,esc10,src_file,take\n"
    "1-100032-A-0.wav,1,0,dog,True,100032,A\n"
    "1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\n"
    "5-9032-A-0.wav,5,0,dog,True,9032,A\n"
)


def test_esc50(prepare: Prepare, touch: Touch, save: Save) -> None:
    path, media = save("esc50.csv", ESC50), touch("1-100032-A-0.wav", "1-100038-A-14.wav", "5-9032-A-0.ogg")
    done = prepare("esc50", path, media)
    assert [(clip.id, clip.labels, clip.split, clip.extra) for clip in done.clips] == [
        ("1-100032-A-0", ("dog",), None, {"x_fold": 1}),
        ("1-100038-A-14", ("chirping_birds",), None, {"x_fold": 1}),
        ("5-9032-A-0", ("dog",), None, {"x_fold": 5}),
    ]
    done = prepare("esc50", path, media, "--esc10", "--fold", "1")
    assert [(clip.id, clip.split) for clip in done.clips] == [("1-100032-A-0", "test"), ("5-9032-A-0", "train")]
    assert "2 rows (test 1, train 1), 1 labels" in done.out
    assert "--fold 2: " in prepare("esc50", path, media, "--fold", "2").err


def test_esc50_as_other_programs_write_it(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("1-100032-A-0.wav", "1-100038-A-14.wav", "5-9032-A-0.ogg")
    path = save("esc50.csv", ESC50.replace("True", "TRUE", 1).replace("True", "true").replace("False", "FALSE"))
    assert [clip.id for clip in prepare("esc50", path, media, "--esc10").clips] == ["1-100032-A-0", "5-9032-A-0"]
    path = save("esc50.csv", ESC50.replace("False", "no"))
    said = f"error: {path}, line 3: esc10 is True or False, not 'no'\n"
    assert prepare("esc50", path, media, "--esc10").err == said
    path = save("esc50.csv", ESC50.replace(",5,", ",²,"))
    assert prepare("esc50", path, media).err == f"error: {path}, line 4: '²' is not the number of a fold\n"
    path = save("esc50.csv", ESC50.replace("1-100032-A-0.wav", ""))
    assert f"{path}, line 2: there is no filename" in prepare("esc50", path, media).err


def test_a_copy_of_esc10(prepare: Prepare, touch: Touch, save: Save) -> None:
    path = save("esc10.csv", "filename,fold,target,category\n1-100032-A.ogg,1,0,dog\n1-x.ogg,one,0,dog\n")
    media = touch("clips/1-100032-A.ogg")
    assert f"{path}, line 3: 'one' is not the number of a fold" in prepare("esc50", path, media).err
    assert "there is no column 'esc10'" in prepare("esc50", path, media, "--esc10").err
    (clip,) = prepare("esc50", save("esc10.csv", path.read_text().replace("one", "2")), media).clips
    assert (clip.id, clip.extra) == ("1-100032-A", {"x_fold": 1})
