from __future__ import annotations

import tarfile
from pathlib import Path

import fsspec
import pytest
import torch

from vatt.datasets.media.decoding import open_media
from vatt.datasets.media.facts import MediaError
from vatt.datasets.media.source import Window, exists, join, member, parent, split_member, state


def tar_of(folder: Path, files: list[Path]) -> tuple[Path, list[str]]:
    """A tar of files, and the paths of its members."""
    path = folder / "a shard, 1.tar"
    with tarfile.open(path, "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with tarfile.open(path) as tar:
        return path, [member(str(path), found.offset_data, found.size) for found in tar.getmembers()]


def test_a_clip_in_a_shard_is_read_as_the_file_is(tmp_path: Path, video_file: Path, sound_file: Path) -> None:
    shard, paths = tar_of(tmp_path, [sound_file, video_file])
    with fsspec.open("memory://bucket/0.tar", "wb") as remote:
        remote.write(shard.read_bytes())
    offset = paths[1].rpartition("#")[2]
    with open_media(video_file) as media:
        frames, sound = media.frames([0.5, 2.9]).frames, media.waveform(1.2, 0.5, 16_000).samples
    for path in (paths[1], f"memory://bucket/0.tar#{offset}"):
        with open_media(path) as media:
            assert torch.equal(media.frames([0.5, 2.9]).frames, frames)
            assert torch.equal(media.waveform(1.2, 0.5, 16_000).samples, sound)


def test_what_is_missing_in_a_shard_is_named(tmp_path: Path, video_file: Path) -> None:
    shard, (path,) = tar_of(tmp_path, [video_file])
    shard.write_bytes(shard.read_bytes()[:2000])
    with pytest.raises(MediaError, match="the shard has 2000 bytes, the clip ends at"):
        open_media(path)
    with pytest.raises(MediaError, match="No such file"):
        open_media(tmp_path / "gone.tar#512+90")
    with pytest.raises(MediaError, match=r"gone\.mp4"):
        open_media("memory://bucket/gone.mp4")


@pytest.mark.parametrize("decoder", ["decord", "torchcodec"])
def test_other_decoders_read_files_only(tmp_path: Path, video_file: Path, decoder: str) -> None:
    _, (path,) = tar_of(tmp_path, [video_file])
    try:
        open_media(video_file, decoder)  # type: ignore[arg-type]
    except ImportError as error:
        pytest.skip(str(error))
    with pytest.raises(MediaError, match="local files only"):
        open_media(path, decoder)  # type: ignore[arg-type]


def test_paths_and_urls_are_put_together() -> None:
    assert join("folder", "a.mp4") == "folder/a.mp4"
    assert join("folder", "/b/a.mp4") == "/b/a.mp4"
    assert join("s3://bucket/set/", "a.mp4") == "s3://bucket/set/a.mp4"
    assert join("folder", "s3://bucket/a.mp4") == "s3://bucket/a.mp4"
    assert parent("s3://bucket/set/clips.jsonl") == "s3://bucket/set"
    assert split_member("s3://b/0.tar#512+90") == ("s3://b/0.tar", 512, 90)
    assert split_member("a#b.mp4") == ("a#b.mp4", 0, None)


def test_a_file_may_be_called_like_a_member(tmp_path: Path) -> None:
    path = tmp_path / "clip#1+2"
    path.write_bytes(b"12345")
    assert split_member(str(path)) == (str(path), 0, None)
    assert state(str(path))[0] == 5
    assert exists(str(path))
    assert not exists(f"{path}#3+3")
    assert exists(f"{path}#3+2")


def test_a_window_ends_where_its_stretch_ends(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(100)))
    with Window((tmp_path / "file").open("rb"), 10, 20) as window:
        assert window.read(5) == bytes(range(10, 15))
        assert window.seek(-3, 2) == 17
        assert window.read() == bytes(range(27, 30))
        assert window.read(1) == b""
