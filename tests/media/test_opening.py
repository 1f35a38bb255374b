"""Reasons why files cannot be opened: the same from all functions that open them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import numbered_frames
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.inspection import read_packets
from vatt.media.tracks.streams import read_streams
from vatt.media.transcode import Encoding, check_whole, transcode
from vatt.media.types import MediaError, NoMedia


def reasons(path: Path) -> list[tuple[type, str]]:
    """Return type and reason of the error of each function that opens a file."""
    errors = []
    for function in (
        read_packets,  # vatt scan
        open_media,  # vatt embed and training
        lambda path: read_streams(path, 10.0),  # vatt app
        lambda path: transcode(path, Path(path).with_name("output.mp4"), Encoding()),  # vatt prepare
        check_whole,
    ):
        with pytest.raises(MediaError) as error:
            function(str(path))
        errors.append((type(error.value), error.value.reason))
    return errors


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"\n<!DOCTYPE html><html>404</html>" * 50, NoMedia, "a web page (HTML)"),
        (b"just some words\n" * 50, NoMedia, "plain text"),
        (bytes(5000), NoMedia, "begins with zeros"),
        (b"RIFF", MediaError, "no readable media: Invalid data"),
        (bytes(range(1, 256)) * 20, MediaError, "no readable media: Invalid data"),
        (b"", MediaError, "the file is empty (0 bytes)"),
        (None, MediaError, "No such file"),
    ],
)
def test_all_functions_give_the_same_reason(tmp_path: Path, content: bytes | None, kind: type, reason: str) -> None:
    path = tmp_path / "clip.mp4"
    if content is not None:
        path.write_bytes(content)
    errors = reasons(path)
    assert errors == errors[:1] * len(errors)
    assert errors[0][0] is kind
    assert errors[0][1].startswith(reason)


def test_a_cut_file_has_the_same_reason_everywhere(tmp_path: Path) -> None:
    write_media(tmp_path / "whole.mp4", numbered_frames(10), 10)
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data[: data.index(b"moov") - 4])
    assert {reason for _, reason in reasons(tmp_path / "clip.mp4")} == {
        "has no index (moov atom): cut off, or never finished"
    }
