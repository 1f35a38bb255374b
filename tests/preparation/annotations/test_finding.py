from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vatt.datasets.folders import PICTURE_SUFFIXES
from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files

Touch = Callable[..., Path]


def found(files: Files, name: str) -> str | None:
    path = files.find(name)
    return None if path is None else path.relative_to(files.folder).as_posix()


def test_a_name_is_found_under_any_folder_and_suffix(touch: Touch) -> None:
    files = Files(touch("a/-Ab_cd-EfG_.webm", "b/v_X_g01.MP4", "abc_30.000.wav", "twice.mp4.webm", "notes.txt"))
    assert found(files, "-Ab_cd-EfG_") == "a/-Ab_cd-EfG_.webm"
    assert found(files, "v_X_g01.avi") == "b/v_X_g01.MP4"
    assert found(files, "elsewhere/v_X_g01.avi") == "b/v_X_g01.MP4"
    assert found(files, "abc_30.000") == "abc_30.000.wav"
    assert found(files, "twice") == "twice.mp4.webm"
    assert found(files, "abc_30") is None
    assert found(files, "V_x_g01") is None  # ids of YouTube differ by case alone
    assert found(files, "notes") is None
    assert files.several == {}


def test_the_id_in_the_title_that_yt_dlp_writes(touch: Touch) -> None:
    files = Files(touch("How to [part 2] bake [-Ab_cd-EfG_].mp4", "Other [short].mp4"))
    assert found(files, "-Ab_cd-EfG_") == "How to [part 2] bake [-Ab_cd-EfG_].mp4"
    assert found(files, "short") is None


def test_folders_decide_between_files_of_one_name(touch: Touch) -> None:
    files = Files(touch("train/run/1.mp4", "train/walk/1.mp4", "walk/2.mp4", "deep/walk/2.mp4"))
    assert found(files, "walk/1.mp4") == "train/walk/1.mp4"
    assert found(files, "train/run/1") == "train/run/1.mp4"
    assert found(files, "walk/2") == "walk/2.mp4"
    assert files.several == {}
    assert found(files, "alk/1") == "train/run/1.mp4"  # not a folder of its own: any will do, and this is reported
    assert files.several == {"alk/1": ["train/run/1.mp4", "train/walk/1.mp4"]}


def test_several_files_give_the_same_one_every_time_and_a_report(touch: Touch) -> None:
    files = Files(touch("b/x.mp4", "a/x.wav", "c/x.avi"))
    assert found(files, "x") == "b/x.mp4"  # picture before sound, then by the alphabet
    assert files.several == {"x": ["b/x.mp4", "c/x.avi", "a/x.wav"]}
    assert found(files, "x.avi") == "c/x.avi"
    assert found(files, "x.wav") == "a/x.wav"
    assert set(files.several) == {"x"}


def test_only_the_named_folder_where_that_is_wanted(touch: Touch) -> None:
    files = Files(touch("run/1.mp4", "other/walk/1.mp4", "2.webm", "run/3.mp4"), anywhere=False)
    assert found(files, "run/1.mp4") == "run/1.mp4"
    assert found(files, "walk/1.mp4") is None  # a folder of that name, but not at that place
    assert found(files, "jump/1.mp4") is None
    assert found(files, "2.mp4") == "2.webm"
    assert found(files, "3.mp4") is None


def test_links_are_followed_but_not_in_circles_or_to_nowhere(touch: Touch, tmp_path: Path) -> None:
    folder = touch("real/x.mp4")
    far = tmp_path / "far"
    far.mkdir()
    (far / "y.mp4").touch()
    for name in ("val", "val_256"):
        os.symlink(far, folder / name)
    os.symlink(folder, folder / "real" / "circle")
    os.symlink(folder, far / "back")
    os.symlink(folder / "gone.mp4", folder / "z.mp4")
    files = Files(folder)
    assert files.paths == ["real/x.mp4", "val/y.mp4", "val_256/y.mp4", "z.mp4"]
    assert found(files, "val_256/y") == "val_256/y.mp4"  # a second name of a folder counts
    assert found(files, "y") == "val/y.mp4"
    assert found(files, "z") is None
    assert (files.several, files.elsewhere) == ({}, {})  # both names are of one file


def test_a_file_in_another_folder_than_the_one_named_is_reported(touch: Touch) -> None:
    files = Files(touch("val/closing/1.mp4", "val/opening/2.mp4", "3.mp4"))
    assert found(files, "opening/1.mp4") == found(files, "closing/1.mp4") == "val/closing/1.mp4"
    assert found(files, "opening/2.mp4") == "val/opening/2.mp4"
    assert found(files, "opening/3.mp4") == "3.mp4"
    assert found(files, "1") == "val/closing/1.mp4"
    assert files.elsewhere == {"opening/1.mp4": "val/closing/1.mp4"}


def test_files_whose_names_are_not_text_are_left_out(touch: Touch) -> None:
    name = os.fsdecode(b"\xff.mp4")
    files = Files(touch(name))
    with pytest.raises(InputError, match=r"media holds no media file \(found .*dcff.mp4', whose name is not UTF-8\)"):
        files.find("a")
    files = Files(touch("a/ü.mp4"))
    assert (files.paths, files.misnamed) == (["a/ü.mp4"], [name])


def test_hidden_folders_keep_their_dot(touch: Touch) -> None:
    assert Files(touch(".cache/x.mp4")).paths == [".cache/x.mp4"]


def test_a_folder_without_such_files_says_what_it_holds(touch: Touch, tmp_path: Path) -> None:
    folder = touch("a.zip", "b/c.zip", "d.jpg")
    with pytest.raises(InputError, match=r"media holds no media file \(found 1 .jpg, 2 .zip\)"):
        Files(folder).find("a")
    assert Files(folder, PICTURE_SUFFIXES, "image").paths == ["d.jpg"]
    with pytest.raises(InputError, match=r"there is no folder at .*nowhere"):
        Files(tmp_path / "nowhere")
