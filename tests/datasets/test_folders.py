"""List media files of a directory and skip files of the operating system."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import numbered_frames, read_number
from tests.media.clocks import pitch, tone, write
from vatt.datasets.folders import MEDIA_SUFFIXES, list_media, summarize
from vatt.datasets.manifest import read_manifest
from vatt.errors import ManifestError
from vatt.media.decoding import open_media
from vatt.preparation.scan.file import scan_file

APPLE_DOUBLE = bytes.fromhex("00051607 00020000") + b"Mac OS X        " + bytes(4000)


def fill(folder: Path, **files: bytes) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in list_media(folder).media]


def test_a_file_behind_a_linked_directory_is_listed_once(tmp_path: Path) -> None:
    fill(tmp_path, **{"root/real/a.mp4": b"0", "root/real/sub/b.mp4": b"1", "outside/c.mp4": b"2", "root/d.txt": b""})
    root = tmp_path / "root"
    for link, target in {"lnk": "real", "outer1": "../outside", "outer2": "../outside", "sub": "real/sub"}.items():
        (root / link).symlink_to(target)
    (tmp_path / "alias").symlink_to(root)
    for folder in (root, tmp_path / "alias"):
        assert names(folder) == ["outer1/c.mp4", "real/a.mp4", "real/sub/b.mp4"]
        assert [clip.id for clip in read_manifest(folder)] == names(folder)
        lines = summarize(folder)
        assert f"skipped: {folder}/lnk/a.mp4: the same file as {folder}/real/a.mp4" in lines
        assert f"skipped: {folder}/outer2/c.mp4: the same file as {folder}/outer1/c.mp4" in lines
        assert "skipped files: 4 (listed at another path: 4)" in lines
    assert [clip.id for clip in read_manifest(f"{root}/*/a.mp4")] == ["real/a.mp4"]
    assert names(root / "lnk") == ["a.mp4", "sub/b.mp4"]


def test_files_of_systems_and_empty_files_are_skipped_and_counted(tmp_path: Path) -> None:
    media = {"a.mp4": b"0", "sub/.c.wav": b"RIFF", "Photos.Trash/d.mp4": b"0"}
    system = {
        "._a.mp4": APPLE_DOUBLE,
        "sub/._b.mp4": b"\0\0\0\x20ftypisom",
        "._.DS_Store": bytes(100),
        "empty.mp4": b"",
        "sub/._empty.mov": b"",
        "Thumbs.db": b"0",
        "sub/.DS_Store": b"0",
        "Desktop.ini": b"0",
        ".later.mp4.icloud": b"bplist00",
        "__MACOSX/a.mp4": b"0",
        "sub/@eaDir/a.mp4/SYNOVIDEO.jpg": b"0",
        "$RECYCLE.BIN/S-1/$R1.mp4": b"0",
        ".Trash-1000/files/x.mp4": b"0",
        ".Trash-1000/files/y.mp4": b"0",
    }
    fill(tmp_path, **media, **system, **{"notes.txt": b"", "README": b"x"})
    assert names(tmp_path) == sorted(media)
    assert [clip.id for clip in read_manifest(tmp_path)] == sorted(media)
    listing = list_media(tmp_path)
    assert listing.others == {".txt": 1, "README": 1}
    assert listing.counts == {
        "macOS metadata (._*)": 4,
        "empty (0 bytes)": 1,
        "system file": 3,
        "not downloaded from iCloud": 1,
        "in a system directory": 5,
    }
    lines = summarize(tmp_path)
    assert f"skipped: {tmp_path / '._a.mp4'}: macOS metadata (._*)" in lines
    assert f"skipped: {tmp_path / '.Trash-1000'}: 2 files in a system directory" in lines
    assert any(line.startswith("skipped files: 14 (") and "macOS metadata (._*): 4" in line for line in lines)
    assert "not media by their names: 1 .txt, 1 README" in lines


def test_special_files_are_skipped_as_not_regular(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.mp4": b"0"})
    os.mkfifo(tmp_path / "b.mp4")
    assert names(tmp_path) == ["a.mp4"]
    assert list_media(tmp_path).counts == {"not a regular file": 1}


def test_a_directory_of_the_system_that_is_given_itself_is_listed(tmp_path: Path) -> None:
    fill(tmp_path / "@eaDir", **{"a.mp4": b"0", "._a.mp4": APPLE_DOUBLE})
    assert names(tmp_path / "@eaDir") == ["a.mp4"]


def test_patterns_skip_the_same_files(tmp_path: Path) -> None:
    fill(tmp_path, **{"x/a.mp4": b"0", "x/b.jpg": b"0", "x/e.mp4": b"", "__MACOSX/a.mp4": b"0"})
    assert [clip.id for clip in read_manifest(tmp_path / "*" / "*")] == ["x/a.mp4", "x/b.jpg"]
    assert f"skipped: {tmp_path / 'x' / 'e.mp4'}: empty (0 bytes)" in summarize(tmp_path / "*" / "*")


def test_only_skipped_files_are_an_error(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.mp4": b"", "._b.mp4": APPLE_DOUBLE})
    with pytest.raises(ManifestError, match=r"found nothing; skipped: 1 empty \(0 bytes\), 1 macOS metadata \(\._\*\)"):
        read_manifest(tmp_path)


def test_images_are_media_without_other_media(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.jpg": b"0", "b.PNG": b"0", "notes.txt": b"", "README": b""})
    assert names(tmp_path) == ["a.jpg", "b.PNG"]
    assert list_media(tmp_path).others == {".txt": 1, "README": 1}
    assert list_media(tmp_path, MEDIA_SUFFIXES).others == {".txt": 1, "README": 1, ".jpg": 1, ".png": 1}
    fill(tmp_path, **{"c.mp4": b"0"})
    assert list_media(tmp_path).others == {".txt": 1, "README": 1, ".jpg": 1, ".png": 1}


def test_gif_files_are_listed_with_videos_and_with_images(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.gif": b"0"})
    assert names(tmp_path) == ["a.gif"]
    fill(tmp_path, **{"b.jpg": b"0"})
    assert names(tmp_path) == ["a.gif", "b.jpg"]
    fill(tmp_path, **{"c.mp4": b"0"})
    assert names(tmp_path) == ["a.gif", "c.mp4"]


NEW_AUDIO = {
    "a.oga": "flac",
    "a.wv": "wavpack",
    "a.mka": "libopus",
    "a.mp2": "mp2",
    "a.ac3": "ac3",
    "a.eac3": "eac3",
    "a.aif": "pcm_s16be",
    "a.aiff": "pcm_s16be",
    "a.caf": "pcm_s16le",
    "a.w64": "pcm_s16le",
    "a.tta": "tta",
    "a.m4b": "aac",
}
NEW_VIDEO = {
    "a.vob": "mpeg2video",
    "a.wtv": "mpeg2video",
    "a.m2v": "mpeg2video",
    "a.m1v": "mpeg1video",
    "a.mxf": "mpeg2video",
    "a.nut": "mpeg4",
    "a.asf": "wmv2",
    "a.3g2": "mpeg4",
    "a.f4v": "libx264",
    "a.h264": "libx264",
    "a.ivf": "libvpx",
}


@pytest.mark.parametrize(("name", "codec"), [*NEW_AUDIO.items(), *NEW_VIDEO.items()])
def test_files_are_listed_if_the_reader_supports_their_format(tmp_path: Path, name: str, codec: str) -> None:
    path = tmp_path / name
    is_audio = name in NEW_AUDIO
    if is_audio:
        write(path, None, codec, tone(440, 2.0, 48_000), 48_000)
    else:
        write(path, codec, frames=numbered_frames(50), options={"b": "2M", "bf": "0"})
    assert list_media(tmp_path).media == [path]
    with open_media(path) as media:
        assert media.info.duration_s == pytest.approx(2.0, abs=0.1)
        if not is_audio:
            result = [read_number(frame) for frame in media.frames([0.5, 1.9]).frames]
            assert result == pytest.approx([12, 47], abs=1)
    assert not is_audio or pitch(path, 0.5) == 440
    assert scan_file(str(path), 2, 60.0).status == "ok"


def test_files_of_other_sources_are_not_summarized(tmp_path: Path) -> None:
    fill(tmp_path, **{"a.csv": b"path\na.mp4\n"})
    assert summarize(tmp_path / "a.csv") == summarize("s3://bucket/*.mp4") == []
