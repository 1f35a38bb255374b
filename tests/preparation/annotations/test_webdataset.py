"""Tars of the library webdataset become a manifest."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from webdataset import ShardWriter

from tests.conftest import numbered_frames, read_number
from tests.preparation.annotations.conftest import Done
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset
from vatt.media.decoding import open_media
from vatt.structures import ClipFormat

Prepare = Callable[..., Done]
TEXT = b'{"text": "c"}'


@pytest.fixture
def tars(tmp_path: Path, video_file: Path, silent_file: Path, sound_file: Path) -> Path:
    """Two tars: a video with a caption in its JSON, one with a text, a video beside its sound, a sound, a picture."""
    folder = tmp_path / "tars"
    folder.mkdir()
    picture = io.BytesIO()
    Image.fromarray(numbered_frames(6)[5]).save(picture, "png")
    described = {"caption": "a dog runs", "url": "https://example.org/1", "status": "success", "key": "0000000"}
    samples = [
        {"__key__": "0000000", "mp4": video_file.read_bytes(), "json": json.dumps(described).encode()},
        {"__key__": "0000001", "mp4": silent_file.read_bytes(), "txt": " zwei Köche \n".encode()},
        {
            "__key__": "0000002",
            "mp4": silent_file.read_bytes(),
            "m4a": sound_file.read_bytes(),
            "json": b'{"text": "c"}',
        },
        {"__key__": "0000003", "json": b'{"caption": "gone", "status": "failed_to_download"}'},
        {"__key__": "0000004", "M4A": sound_file.read_bytes(), "json": b'{"caption": null}'},
        {"__key__": "part/five", "seg.png": picture.getvalue(), "txt": b"five"},
    ]
    with ShardWriter(f"{folder}/%05d.tar", maxcount=4, verbose=0, encoder=False) as writer:
        for sample in samples:
            writer.write(sample)
    return folder


def test_tars_become_a_manifest_without_unpacking(prepare: Prepare, tars: Path, sound_file: Path) -> None:
    done = prepare("webdataset", tars)
    assert done.status == 0, done.err
    rows = {clip.id: clip for clip in done.clips}
    captions = {name: [text.text for text in clip.texts] for name, clip in rows.items()}
    assert captions == {
        "00000/0000000": ["a dog runs"],
        "00000/0000001": ["zwei Köche"],
        "00000/0000002": ["c"],
        "00001/0000004": [],
        "00001/part/five": ["five"],
    }
    with open_media(rows["00000/0000000"].path) as media:
        assert [read_number(frame) for frame in media.frames([0.1, 1.1, 2.5]).frames] == [2, 27, 62]
        assert media.waveform(0.0, 3.0, 16_000).coverage() == 1.0
    assert rows["00000/0000000"].audio_path is None
    with open_media(rows["00000/0000002"].audio_path) as media:
        assert not media.info.has_video
    file, _, place = rows["00001/0000004"].path.partition("#")
    offset, size = map(int, place.split("+"))
    assert Path(file).read_bytes()[offset : offset + size] == sound_file.read_bytes()
    with open_media(rows["00001/part/five"].path) as media:
        assert [read_number(frame) for frame in media.frames([0.0]).frames] == [5]
    assert "Samples without media: 1 (first: 00000/0000003)." in done.out
    assert "Rows without a caption: 1 (first: 00001/0000004)." in done.out
    samples = [ClipDataset(done.clips, ClipReader(ClipFormat(4, 4.0, 16, 1000)))[i][0] for i in range(5)]
    assert [bool(sample["video_valid"]) for sample in samples] == [True, True, True, False, True]
    assert [bool(sample["audio_valid"]) for sample in samples] == [True, False, True, True, False]


def test_paths_are_relative_where_the_tars_lie_below_the_manifest(prepare: Prepare, tars: Path, output: Path) -> None:
    prepare("webdataset", tars / "00001.tar", tars / "00000.tar", "--split", "val", "--caption", "url")
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["id"] for row in rows][:2] == ["00001/0000004", "00001/part/five"]
    assert {row["split"] for row in rows} == {"val"}
    assert rows[2]["texts"] == ["https://example.org/1"]
    assert rows[2]["path"].startswith(str(tars / "00000.tar#"))


def test_samples_that_are_not_as_they_should_be(prepare: Prepare, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        for name, content in (
            ("x.json", b"{"),
            ("x.wav", b"1"),
            ("x.m4a", b"2"),
            ("README", b"3"),
            ("y.mp4", bytes(3000)),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        tar.addfile(_folder("folder.mp4"))
    done = prepare("webdataset", folder)
    assert [clip.id for clip in done.clips] == ["a/x", "a/y"]
    assert "Captions that are not UTF-8 or not JSON: 1 (first: a/x)." in done.out
    assert "Samples with several files of one kind, of which the first is taken: 1 (first: a/x)." in done.out

    whole = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(whole[: whole.index(b"y.mp4") + 1000])
    done = prepare("webdataset", folder)
    assert [clip.id for clip in done.clips] == ["a/x"]
    assert "Tars that were cut off, read as far as they are whole: 1" in done.out


def test_classes_become_labels(prepare: Prepare, tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "%05d.tar"), verbose=0) as writer:  # writes classes with its own encoder
        for number, label in enumerate((7, 0, b" 12\n", b"dog")):
            writer.write({"__key__": str(number), "jpg": b"x", "cls": label})
        writer.write({"__key__": "4", "jpg": b"x", "txt": "a"})
    done = prepare("webdataset", tmp_path)
    assert [clip.labels for clip in done.clips] == [("7",), ("0",), ("12",), (), ()]
    assert "Classes that are not integers, left out: 1 (first: 00000/3.cls)." in done.out


def test_tars_of_one_name_in_several_folders(prepare: Prepare, tars: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    for split in ("train", "val"):
        shutil.copytree(tars, both / split)
    ids = [f"{split}/{clip.id}" for split in ("train", "val") for clip in prepare("webdataset", tars).clips]
    assert [clip.id for clip in prepare("webdataset", both / "train", both / "val").clips] == ids
    assert [clip.id for clip in prepare("webdataset", both).clips] == ids
    done = prepare("webdataset", both, both / "val" / "00001.tar")
    assert [clip.id for clip in done.clips] == ids
    assert "Rows left out as repeated: 2 " in done.out


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.DIRTYPE
    return info


def test_what_is_no_tar_is_named(prepare: Prepare, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as tar:
        tar.add(__file__, "a.txt")
    assert "packed.tar is compressed" in prepare("webdataset", tmp_path / "packed.tar").err
    (tmp_path / "page.tar").write_text("<html>" * 999)
    assert "page.tar is no tar" in prepare("webdataset", tmp_path / "page.tar").err
    (tmp_path / "empty").mkdir()
    done = prepare("webdataset", tmp_path / "empty")
    assert (done.status, "holds no .tar" in done.err) == (2, True)
    (tmp_path / "empty" / "0.tar.gz").touch()
    assert "0.tar.gz: decompress it" in prepare("webdataset", tmp_path / "empty").err
    assert "No such file" in prepare("webdataset", tmp_path / "gone.tar").err


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_members_are_paired_by_key_in_any_order(prepare: Prepare, tmp_path: Path) -> None:
    """All videos, then all captions; and two samples of one key far apart."""
    videos = [(f"{i}.mp4", b"video%d" % i) for i in range(3)]
    captions = [(f"{i}.txt", b"caption %d" % i) for i in (2, 0, 1)]
    again = [("1.mp4", b"other"), ("1.txt", b"another")]
    tar = write_tar(tmp_path / "tars" / "a.tar", [*videos, *captions, *again])
    done = prepare("webdataset", tar)
    content = tar.read_bytes()

    def media(path: str) -> bytes:
        offset, size = map(int, path.partition("#")[2].split("+"))
        return content[offset : offset + size]

    assert {clip.id: (media(clip.path), [text.text for text in clip.texts]) for clip in done.clips} == {
        "a/0": (b"video0", ["caption 0"]),
        "a/1": (b"video1", ["caption 1"]),
        "a/2": (b"video2", ["caption 2"]),
        "a/1#2": (b"other", ["another"]),
    }
    assert "Members whose name occurs again in their tar, read as further samples: 2 (first: " in done.out
    assert "without" not in done.out


def test_names_pair_up_to_the_first_dot_in_every_spelling(prepare: Prepare, tmp_path: Path) -> None:
    members = [
        ("a.b.mp4", b"1"),
        ("a.b.txt", b"dotted"),
        ("./k4.mp4", b"1"),
        ("k4.txt", b"relative"),
        ("e\u0301.mp4", b"1"),
        ("\u00e9.txt", b"composed"),
        ("c.d/x.mp4", b"1"),
        ("c.d/x.seg.json", b'{"caption": "nested"}'),
        ("y.mp4", b"1"),
        ("y.en.txt", b"second"),
        ("y.txt", b"first"),
    ]
    done = prepare("webdataset", write_tar(tmp_path / "t" / "0.tar", members))
    captions = {clip.id: clip.texts[0].text for clip in done.clips if clip.texts}
    assert captions == {
        "0/a": "dotted",
        "0/k4": "relative",
        "0/\u00e9": "composed",
        "0/c.d/x": "nested",
        "0/y": "first",
    }
    assert len(done.clips) == 5


def test_empty_media_files_are_skipped(prepare: Prepare, tmp_path: Path) -> None:
    members = [("a.mp4", b""), ("a.txt", b"gone"), ("b.mp4", b"1"), ("b.wav", b""), ("b.txt", b"")]
    done = prepare("webdataset", write_tar(tmp_path / "t" / "0.tar", members))
    assert [(clip.id, clip.audio_path) for clip in done.clips] == [("0/b", None)]
    assert "Media files without content, left out: 2 " in done.out
    assert "Samples without media: 1 (first: 0/a)." in done.out


def test_a_key_that_occurs_twice_is_an_error(prepare: Prepare, tmp_path: Path) -> None:
    members = [("a.mp4", b"1"), ("a.json", b'{"caption": "x", "caption": "y"}')]
    done = prepare("webdataset", write_tar(tmp_path / "t" / "0.tar", members))
    assert done.status == 2
    assert "0/a.json: the key 'caption' occurs twice in one object" in done.err
