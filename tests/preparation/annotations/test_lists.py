"""The lists of VideoMAE and V-JEPA, and folders of images."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.annotations.conftest import Done

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]


def test_paths_with_labels(prepare: Prepare, touch: Touch, save: Save, tmp_path: Path) -> None:
    media = touch("k400/a b 3.mp4", "k400/c,d.MP4", "e.webm", "k400/other/f.mp4")
    apart = save("apart/g 1.mp4", "")
    train = save("train.csv", f'\ufeffk400/a b 3.mp4 1\r\nk400/c,d.MP4  2\r\n"{apart}" 0\r\n')
    val = save("val.csv", "./e.mp4 0\nk400/f.mp4 1\ne.mp4 -1\n")
    done = prepare("video_lists", train, val, media)
    assert [(clip.id, clip.path, clip.labels, clip.split) for clip in done.clips] == [
        ("k400/a b 3.mp4", str(media / "k400/a b 3.mp4"), ("1",), "train"),
        ("k400/c,d.MP4", str(media / "k400/c,d.MP4"), ("2",), "train"),
        (str(apart), str(apart), ("0",), "train"),
        ("./e.mp4", str(media / "e.webm"), ("0",), "val"),  # and a second row without a label
    ]
    assert done.missing == [["k400/f.mp4", "k400/f.mp4"]]  # not the one in another folder

    classes = save("kinetics400_labels.txt", "abseiling\nair drumming\nzumba\n")
    done = prepare("video_lists", train, media, "--classes", classes)
    assert [clip.labels for clip in done.clips] == [("air drumming",), ("zumba",), ("abseiling",)]
    done = prepare("video_lists", train, media, "--classes", save("short.txt", "abseiling\nair drumming\n"))
    assert done.err == f"error: {train}, line 2: label 2 is not one of the 2 classes\n"


def test_paths_of_another_machine(prepare: Prepare, touch: Touch, save: Save) -> None:
    media, path = touch("val/a.mp4"), save("val.csv", "/their/k400/val/a.mp4 5\n")
    assert "looked for their/k400/val/a.mp4 (row" in prepare("video_lists", path, media).err
    (clip,) = prepare("video_lists", path, media, "--strip", "/their/k400").clips
    assert (clip.path, clip.labels) == (str(media / "val/a.mp4"), ("5",))


def test_spans_in_frames(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("a.mp4", "b 2.mp4")
    whole = save("train.txt", "a.mp4 0 -1\nb 2.mp4 0 -1 7\nframes/c 0 300\nb 2.mp4\n")
    done = prepare("video_lists", whole, media)
    assert [(clip.id, clip.start_s, clip.end_s, clip.labels) for clip in done.clips] == [
        ("a.mp4", 0.0, None, ()),
        ("b 2.mp4", 0.0, None, ("7",)),
    ]
    assert f"no video or sound (folders of frames?): 1 (first: {whole}, line 3)." in done.out
    assert "Rows left out for an earlier one of their id: 1" in done.out

    spans = save("train.txt", "a.mp4 50 100 7\na.mp4 150 -1 8\n")
    assert prepare("video_lists", spans, media).err == (
        f"error: {spans}, line 1: 100 frames from frame 50 on: give --fps to have them in seconds\n"
    )
    done = prepare("video_lists", spans, media, "--fps", "25")
    assert [(clip.id, clip.start_s, clip.end_s, clip.labels) for clip in done.clips] == [
        ("a.mp4@2-6", 2.0, 6.0, ("7",)),
        ("a.mp4@6-end", 6.0, None, ("8",)),
    ]


@pytest.mark.parametrize(
    ("line", "options", "said"),
    [
        ("a.mp4 300 12", [], "line 1: say with --columns what the numbers 300 and 12 are"),
        ("a.mp4 300 12", ["--columns", "label"], "line 1: 2 numbers, but --columns label"),
        ("a.mp4 300 12", ["--columns", "frames,label"], "--columns frames,label: the columns are start_frame"),
        ("a.mp4 0 0 1", [], "line 1: there cannot be 0 frames from frame 0 on"),
        ("a.mp4 1", ["--split", ""], "list.csv: its name does not say which split it is; give --split"),
        ("frames/a dog", ["--split", "train"], "no row that can be used. Lines left out whose path is no video"),
        ("a.mp4 dog", [], "line 1: 'dog' after the path is not up to three whole numbers"),
        ("a.mp4 3.0", [], "line 1: '3.0' after the path is not up to three whole numbers"),
        ("a.mp4 1 2 3 4", [], "line 1: '1 2 3 4' after the path is not up to three whole numbers"),
        ("'a b.mp4',x 1", [], "line 1: 'x 1' after the path is not up to three whole numbers"),
        ("a.mp4 -5", [], "line 1: label -5 is neither a class, from 0 on, nor -1 for none"),
        ("a.mp4 0 30 1", ["--fps", "0"], "--fps 0: a number above 0 is wanted"),
        ("a.mp4 0 30 1", ["--fps", "-25"], "--fps -25: a number above 0 is wanted"),
        ("a.mp4 0 30 1", ["--fps", "nan"], "--fps nan: a number above 0 is wanted"),
        ("a.mp4 0 30 1", ["--columns", "start_frame,start_frame,label"], "start_frame,start_frame,label: the columns"),
    ],
)
def test_lines_that_are_wrong(
    prepare: Prepare, touch: Touch, save: Save, line: str, options: list[str], said: str
) -> None:
    options = options if "--split" in options else [*options, "--split", "train"]
    done = prepare("video_lists", save("list.csv", line), touch("a.mp4"), *options)
    assert done.status == 2
    assert said in done.err


def test_named_columns(prepare: Prepare, touch: Touch, save: Save) -> None:
    path, media = save("val.csv", "a.mp4 300 12\n"), touch("a.mp4")
    (clip,) = prepare("video_lists", path, media, "--columns", "num_frames,label", "--fps", "30").clips
    assert (clip.start_s, clip.end_s, clip.labels) == (0.0, 10.0, ("12",))


def test_imagenet(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch(
        "train/n02012849/n02012849_1.JPEG",
        "train/n03126707/n03126707_7.JPEG",
        "val/n01440764/ILSVRC2012_val_00000293.JPEG",
        "val/ILSVRC2012_val_00000001.JPEG",
        "test/ILSVRC2012_test_00000001.JPEG",
        "val/n01440764/notes.txt",
    )
    names = "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"
    done = prepare("imagenet", media, "--classes", save("LOC_synset_mapping.txt", names))
    assert [(clip.id, clip.labels, clip.split, clip.extra) for clip in done.clips] == [
        ("train/n02012849/n02012849_1.JPEG", ("crane (n02012849)",), "train", {"x_wnid": "n02012849"}),
        ("train/n03126707/n03126707_7.JPEG", ("crane (n03126707)",), "train", {"x_wnid": "n03126707"}),
        ("val/n01440764/ILSVRC2012_val_00000293.JPEG", ("tench, Tinca tinca",), "val", {"x_wnid": "n01440764"}),
    ]
    assert "Images left out, not in a folder of a split and a class: 2 (first: test/ILSVRC2012_test_" in done.out

    solution = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4 n02012849 1 2 3 4\n"
    done = prepare("imagenet", media, "--val_labels", save("LOC_val_solution.csv", solution))
    assert done.by_id()["val/ILSVRC2012_val_00000001.JPEG"].labels == ("n01440764",)
    assert len(done.clips) == 4

    done = prepare("imagenet", media, "--classes", save("LOC_synset_mapping.txt", "n02012849 crane\n"))
    assert "n03126707_7.JPEG: the file of the classes does not have 'n03126707'" in done.err


def test_imagenet_of_folders_with_two_names(prepare: Prepare, touch: Touch) -> None:
    media = touch("train/n02012849/1.JPEG", os.fsdecode(b"train/n02012849/\xff.jpg"))
    os.symlink(media / "train", media / "val")
    done = prepare("imagenet", media)
    assert [(clip.id, clip.split) for clip in done.clips] == [
        ("train/n02012849/1.JPEG", "train"),
        ("val/n02012849/1.JPEG", "val"),
    ]
    assert r"Files left out whose names are not UTF-8: 2 (first: 'train/n02012849/\udcff.jpg')." in done.out


def test_imagenet_from_the_wrong_folder(prepare: Prepare, touch: Touch) -> None:
    media = touch("n02012849/1.JPEG", "n02012849/2.JPEG")
    assert "no row that can be used. Images left out, not in a folder of" in prepare("imagenet", media).err
    done = prepare("imagenet", touch("video.mp4") / "n02012849")
    assert "no row that can be used" in done.err
