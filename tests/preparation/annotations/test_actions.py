"""Sets of actions: Kinetics, Moments in Time, UCF101, HMDB51, Something-Something."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.annotations.conftest import Done
from vatt.structures import TimedText

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]

KINETICS = (
    "\ufefflabel,youtube_id,time_start,time_end,split,is_cc\r\n"
    '"dancing, slowly",-Ab_cd-EfG_,7,17,train,0\r\n'
    "archery,-Ab_cd-EfG_,100,110,validate,1\r\n"
    "archery,_bbbbbbbbbb,0,10,validate,1\r\n"
)


def test_kinetics_cut_clips_and_whole_videos(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("val/archery/-Ab_cd-EfG__000100_000110.mp4", "-Ab_cd-EfG_.mkv", "_bbbbbbbbbb_0_10.mp4")
    done = prepare("kinetics", save("k.csv", KINETICS), media)
    first, second, third = done.clips
    assert (first.id, first.path) == ("-Ab_cd-EfG_@7-17", str(media / "-Ab_cd-EfG_.mkv"))
    assert (first.start_s, first.end_s, first.labels, first.split) == (7.0, 17.0, ("dancing, slowly",), "train")
    assert second.path == str(media / "val/archery/-Ab_cd-EfG__000100_000110.mp4")
    assert (second.start_s, second.end_s, second.split) == (0.0, None, "val")
    assert (third.id, third.start_s, third.end_s) == ("_bbbbbbbbbb@0-10", 0.0, None)
    assert "Spans of files named by the id alone: 1; if they are cut already, give --cuts." in done.out
    done = prepare("kinetics", save("k.csv", KINETICS), media, "--cuts")
    assert (done.clips[0].start_s, done.clips[0].end_s) == (0.0, None)
    assert "Spans" not in done.out


def test_kinetics_test_lists_without_labels(prepare: Prepare, touch: Touch, save: Save) -> None:
    path = save("kinetics-600_test.csv", "youtube_id,time_start,time_end\n-Ab_cd-EfG_,7,17\nbbbbbbbbbbb,1,11\n")
    done = prepare("kinetics", path, touch("test/-Ab_cd-EfG__000007_000017.mp4"))
    assert [(clip.labels, clip.split) for clip in done.clips] == [((), "test")]
    assert f"Rows without a label: 2 (first: {path}, line 2)." in done.out
    done = prepare("kinetics", path, touch(), "--split", "validation")
    assert done.clips[0].split == "val"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("archery,bbbbbbbbbbb,10,1,train", "line 2: the end 1 s is not after the beginning 10 s"),
        ("archery,bbbbbbbbbbb,one,2,train", "line 2: 'one' is not a number from 0 on"),
        ("archery,bbbbbbbbbbb,1", "line 2: 3 cells, but there are 5 columns"),
        ("archery,,1,2,train", "line 2: there is no youtube_id"),
        ("archery,bbbbbbbbbbb,1,2,", "k.csv: its name does not say which split it is; give --split"),
    ],
)
def test_kinetics_lines_that_are_wrong(prepare: Prepare, touch: Touch, save: Save, line: str, said: str) -> None:
    path = save("k.csv", f"label,youtube_id,time_start,time_end,split\n{line}\n")
    done = prepare("kinetics", path, touch("bbbbbbbbbbb.mp4"))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert str(path) in done.err
    assert said in done.err


def test_moments_in_time(prepare: Prepare, touch: Touch, save: Save) -> None:
    train = save("trainingSet.csv", "adult+singing/yt--a_1.mp4,adult+singing,3,0\nrunning/yt--a_1.mp4,running,2,1\n")
    val = save("validationSet.csv", "running/getty-b_2.mp4,running,4,0\nrunning/c_3.mp4,running,4,0\n")
    classes = save("moments_categories.txt", "adult+singing,0\nrunning,1\n")
    media = touch("training/running/yt--a_1.mp4", "training/adult+singing/yt--a_1.mp4", "validation/getty-b_2.webm")
    done = prepare("moments_in_time", train, val, media, "--classes", classes)
    assert [(clip.id, clip.labels, clip.split, clip.extra) for clip in done.clips] == [
        ("adult+singing/yt--a_1.mp4", ("adult+singing",), "train", {"x_agree": 3, "x_disagree": 0}),
        ("running/yt--a_1.mp4", ("running",), "train", {"x_agree": 2, "x_disagree": 1}),
        ("running/getty-b_2.mp4", ("running",), "val", {"x_agree": 4, "x_disagree": 0}),
    ]
    assert done.clips[1].path == str(media / "training/running/yt--a_1.mp4")
    assert done.missing == [["running/c_3.mp4", "running/c_3.mp4"]]

    done = prepare("moments_in_time", train, media, "--classes", save("moments_categories.txt", "running,1\n"))
    assert f"error: {train}, line 1: the file of the classes does not have 'adult+singing'" in done.err
    done = prepare("moments_in_time", save("trainingSet.csv", "running/c_3.mp4,running,4\n"), media)
    assert "trainingSet.csv, line 1: 'running/c_3.mp4,running,4' is not 'file,label,agree,disagree'" in done.err


def test_moments_in_the_folder_of_another_class(prepare: Prepare, touch: Touch, save: Save) -> None:
    path = save("trainingSet.csv", "opening/f_1.mp4,opening,3,0\nclosing/f_1.mp4,closing,2,1\n")
    done = prepare("moments_in_time", path, touch("closing/f_1.mp4"))
    assert [clip.labels for clip in done.clips] == [("opening", "closing")]
    said = "Files found in another folder than the one named: 1 (first: 'opening/f_1.mp4' took closing/f_1.mp4)."
    assert said in done.out
    done = prepare("moments_in_time", save("trainingSet.csv", ",opening,3,0\n"), touch())
    assert "trainingSet.csv, line 1: there is no file" in done.err


@pytest.fixture
def ucf_lists(save: Save) -> Path:
    save("lists/classInd.txt", "1 ApplyLipstick\r\n2 HandstandPushups\r\n")
    one, two, three = (
        "ApplyLipstick/v_ApplyLipstick_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g02_c01.avi",
        "ApplyLipstick/v_ApplyLipstick_g03_c01.avi",
    )
    save("lists/trainlist01.txt", f"{one} 1\r\n{two} 2\r\n")
    save("lists/testlist01.txt", f"{three}\r\n")
    save("lists/trainlist02.txt", f"{three} 1\n")
    return save("lists/testlist02.txt", f"{one}\n").parent


def test_ucf101(prepare: Prepare, touch: Touch, ucf_lists: Path) -> None:
    media = touch(
        "ApplyLipstick/v_ApplyLipstick_g01_c01.avi",
        "HandstandPushups/v_HandStandPushups_g02_c01.avi",
        "v_ApplyLipstick_g03_c01.mp4",
    )
    done = prepare("ucf101", ucf_lists, media)
    assert [(clip.id, clip.labels, clip.split, clip.extra) for clip in done.clips] == [
        ("v_ApplyLipstick_g01_c01", ("ApplyLipstick",), None, {"x_fold1": "train", "x_fold2": "test"}),
        ("v_HandStandPushups_g02_c01", ("HandstandPushups",), None, {"x_fold1": "train"}),
        ("v_ApplyLipstick_g03_c01", ("ApplyLipstick",), None, {"x_fold1": "test", "x_fold2": "train"}),
    ]
    done = prepare("ucf101", ucf_lists, media, "--fold", "2")
    assert [(clip.id, clip.split) for clip in done.clips] == [
        ("v_ApplyLipstick_g01_c01", "test"),
        ("v_ApplyLipstick_g03_c01", "train"),
    ]
    assert "Clips that fold 2 does not use: 1 (first: HandstandPushups/v_HandStandPushups_g02_c01.avi)." in done.out
    files = [ucf_lists / "classInd.txt", ucf_lists / "testlist02.txt"]
    assert [clip.split for clip in prepare("ucf101", *files, media, "--fold", "2").clips] == ["test"]
    assert "--fold 3: there are lists of the folds 1, 2" in prepare("ucf101", ucf_lists, media, "--fold", "3").err


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("trainlist01.txt", "v_ApplyLipstick_g01_c01.avi 1", "is not 'class/file' or 'class/file number'"),
        ("trainlist01.txt", "ApplyLipstick/v_ApplyLipstick_g01_c01.avi 2", "does not fit the classes of"),
        ("trainlist01.txt", "Applylipstick/v_ApplyLipstick_g01_c01.avi 1", "does not fit the classes of"),
        ("testlist01.txt", "ApplyLipstick/v_ApplyLipstick_g01_c01.avi", "is to train on and to test in fold 1"),
        ("classInd.txt", "ApplyLipstick", "is not 'number class'"),
    ],
)
def test_ucf101_lines_that_are_wrong(
    prepare: Prepare, touch: Touch, save: Save, ucf_lists: Path, name: str, text: str, said: str
) -> None:
    path = save(f"lists/{name}", text)
    done = prepare("ucf101", ucf_lists, touch("v_ApplyLipstick_g01_c01.avi"))
    assert done.status == 2
    assert f"{path}, line 1: " in done.err
    assert said in done.err


def test_hmdb51_text_files_and_csv_agree(prepare: Prepare, touch: Touch, save: Save) -> None:
    names = ["A[_x_]!!_pour_u_cm_np1_fr_bad_0.avi", "B;_&_pour_f_cm_np1_le_med_1.avi", "C_run_f_cm_np1_le_med_2.avi"]
    splits = {names[0]: "102", names[1]: "211", names[2]: "120"}
    for label, members in (("pour", names[:2]), ("run", names[2:])):
        for k in range(3):
            save(f"splits/{label}_test_split{k + 1}.txt", "".join(f"{n} {splits[n][k]} \n" for n in members))
    lines = [f"{n},{'run' if '_run_' in n else 'pour'}_test,{','.join(splits[n])}\n" for n in names]
    table = save("hmdb51.csv", "video_id,label,split1,split2,split3\n" + "".join(lines))
    media = touch(f"pour/{names[0]}", f"pour/{names[1]}", f"run/{names[2]}")
    folder = table.parent / "splits"

    done = prepare("hmdb51", table, media)
    assert {clip.id: clip.extra for clip in done.clips} == {
        names[0][:-4]: {"x_fold1": "train", "x_fold3": "test"},
        names[1][:-4]: {"x_fold1": "test", "x_fold2": "train", "x_fold3": "train"},
        names[2][:-4]: {"x_fold1": "train", "x_fold2": "test"},
    }
    assert [clip.labels for clip in done.clips] == [("pour",), ("pour",), ("run",)]
    assert {clip.split for clip in done.clips} == {None}
    assert prepare("hmdb51", folder, media).clips == done.clips
    done = prepare("hmdb51", folder, media, "--fold", "2")
    assert [clip.split for clip in done.clips] == ["train", "test"]
    assert "Clips that fold 2 does not use: 1" in done.out
    assert prepare("hmdb51", table, media, "--fold", "2").clips == done.clips
    upper = save("HMDB51.CSV", table.read_text())
    assert prepare("hmdb51", upper, media, "--fold", "2").clips == done.clips

    assert (
        "--fold 4: the annotations have x_fold1, x_fold2, x_fold3" in prepare("hmdb51", table, media, "--fold", 4).err
    )
    wrong = save("run_test_split1.txt", "C_run.avi 3\n")
    assert f"{wrong}, line 1: 'C_run.avi 3' is not" in prepare("hmdb51", wrong, media).err
    assert "is not called as the splits" in prepare("hmdb51", save("run.txt", "C_run.avi 1\n"), media).err
    empty = save("empty/notes.txt", "").parent
    said = f"error: folder {empty} holds no file called <class>_test_split<number>.txt\n"
    assert prepare("hmdb51", empty, media).err == said
    nameless = save("hmdb51.csv", "video_id,label,split1,split2,split3\n,run,1,1,1\n")
    assert f"{nameless}, line 2: there is no video_id" in prepare("hmdb51", nameless, media).err


def test_something_something(prepare: Prepare, touch: Touch, save: Save) -> None:
    first = {"id": "78687", "label": "holding potato next to vicks vaporub bottle"}
    first |= {"template": "Holding [something] next to [something]", "placeholders": ["potato", "vicks vaporub bottle"]}
    second = {"id": "42", "label": "pushing cup", "template": "Pushing [something]", "placeholders": ["cup"]}
    train = save("something-something-v2-train.json", json.dumps([first, second]))
    test = save("something-something-v2-test.json", json.dumps([{"id": "7"}, {"id": 8}]))
    classes = save("labels.json", '{"Holding something next to something": "0", "Pushing something": "1"}')
    media = touch("78687.webm", "7.webm", "8.mp4")
    done = prepare("something_something_v2", train, test, media, "--classes", classes)
    assert [(clip.id, clip.labels, clip.texts, clip.split) for clip in done.clips] == [
        ("78687", ("Holding something next to something",), (TimedText(first["label"]),), "train"),
        ("7", (), (), "test"),
        ("8", (), (), "test"),
    ]
    assert done.missing == [["42", "42"]]
    done = prepare("something_something_v2", train, media, "--classes", save("labels.json", '{"Pushing something": 1}'))
    assert f"{train}, clip 1: the file of the classes does not have 'Holding something" in done.err
    done = prepare("something_something_v2", save("train.json", '[{"label": "x"}]'), media)
    assert "train.json, clip 1: there is no 'id', only label" in done.err


def test_something_something_without_labels(prepare: Prepare, touch: Touch, save: Save) -> None:
    clips = [{"id": "7", "label": None, "template": None}, {"id": 8}, {"id": "9", "template": "Pushing [something]"}]
    test, media = save("test.json", json.dumps(clips)), touch("7.webm", "8.webm", "9.webm")
    done = prepare("something_something_v2", test, media)
    assert [(clip.labels, clip.texts) for clip in done.clips] == [((), ()), ((), ()), (("Pushing something",), ())]
    assert f"Rows without a label: 2 (first: {test}, clip 1)." in done.out

    answers = save("test-answers.csv", '7;Pulling something, slowly\n8;"Holding [something]"\n10;Pushing something\n')
    done = prepare("something_something_v2", test, media, "--answers", answers)
    labels = [("Pulling something, slowly",), ("Holding something",), ("Pushing something",)]
    assert [clip.labels for clip in done.clips] == labels
    assert "Answers to clips that are not in the lists: 1 (first: 10)." in done.out
    assert "without a label" not in done.out
    done = prepare("something_something_v2", test, media, "--answers", save("test-answers.csv", "7;a\n7;b\n"))
    assert "test-answers.csv, line 2: clip 7 has another label already" in done.err
    done = prepare("something_something_v2", test, media, "--answers", save("test-answers.csv", "7,a\n"))
    assert "test-answers.csv, line 1: '7,a' is not 'id;label'" in done.err


@pytest.mark.parametrize(
    ("clip", "said"),
    [
        ({"id": None}, "clip 1, id: a text is wanted, not 'None'"),
        ({"id": ""}, "clip 1: there is no id"),
        ({"id": "7", "label": ["x"]}, "clip 1, label: a text is wanted"),
        ({"id": "7", "template": 3}, "clip 1, template: a text is wanted, not '3'"),
    ],
)
def test_something_something_of_another_type(
    prepare: Prepare, touch: Touch, save: Save, clip: dict[str, object], said: str
) -> None:
    path = save("test.json", json.dumps([clip]))
    done = prepare("something_something_v2", path, touch("7.webm"))
    assert (done.status, done.err.startswith(f"error: {path}, {said}")) == (2, True)
