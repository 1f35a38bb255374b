from __future__ import annotations

import os
from pathlib import Path
from unicodedata import normalize

import pyarrow as pa
import pytest

from tests.datasets.manifests.conftest import Read
from vatt.datasets.manifests.paths import find_missing, resolve
from vatt.media.sources.files import join


@pytest.mark.parametrize("root", ["", ".", "data", "/data/", "https://host/data", "s3://bucket/a/"])
def test_paths_are_joined_as_single_paths(root: str) -> None:
    paths = ["a.mp4", "./a.mp4", "b//a.mp4", "/x/a.mp4", "../a.mp4", "s3://b/a.mp4", "0.tar#1+2", ".hidden/a", None]
    expected = [path and join(root, path) for path in paths]
    assert resolve(pa.array(paths, pa.large_string()), root).to_pylist() == expected


def test_missing_files_are_found_in_listed_directories(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    paths = [str(tmp_path / "many" / f"{i}.mp4") for i in range(20)] + [str(tmp_path / "one.mp4"), "https://host/a.mp4"]
    for path in paths[:20:2]:
        Path(path).touch()
    Path(paths[1]).mkdir()  # a directory is not a file
    Path(paths[3]).symlink_to(paths[0])
    Path(paths[5]).symlink_to("nowhere.mp4")
    (tmp_path / "many" / "0.tar").write_bytes(bytes(10))
    paths += [str(tmp_path / "many" / f"0.tar#0+{size}") for size in (10, 11)]
    paths += [str(tmp_path / ("a" * 5000)), str(tmp_path / "a\0.mp4")]
    missing = [paths[i] for i in (1, *range(5, 20, 2), 20, 23, 24, 25)]
    assert sorted(find_missing(pa.array(paths, pa.large_string()))) == sorted(missing)


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_normalization_form_are_found(read: Read, tmp_path: Path, form: str, other: str) -> None:
    (tmp_path / normalize(form, "é")).mkdir()
    (tmp_path / normalize(form, "é") / normalize(other, "ü.mp4")).touch()
    clips, _ = read("clips.csv", f"path,text\n{normalize(other, 'é/ü.mp4')},x\n{normalize(form, 'é/ü.mp4')},y\n")
    assert [Path(clip.path).is_file() for clip in clips] == [True]
    assert len(clips[0].texts) == 2


def test_files_whose_names_are_not_utf8_are_skipped(read: Read, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    try:
        for name in (b"caf\xe9.mp4", b"a.mp4"):
            (folder / os.fsdecode(name)).write_bytes(b"0")
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    clips, warnings = read("folder")
    assert [clip.id for clip in clips] == ["a.mp4"]
    assert [event["path"].endswith("caf\\xe9.mp4") for event in clips.skipped] == [True]
    assert len(warnings) == 1
