from __future__ import annotations

import io
import random
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.media.movies import SELF, box, external, fragments, full, movie, reference_movie, tables, track
from vatt.media.decoding import open_media
from vatt.media.formats import boxes
from vatt.media.formats.boxes import MAX_SAMPLES, REFERS, problem
from vatt.media.types import MediaError

TOO_LARGE = "its header declares more than"
MANY = MAX_SAMPLES + 1


def check(content: bytes, max_boxes: int | None = None) -> str:
    return problem(io.BytesIO(content), len(content), max_boxes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reference", [external(b"alis"), external(b"url ", b"file:///a.mov"), SELF + external(b"alis")]
)
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("handler", [b"vide", b"soun"])
def test_media_in_other_files_are_refused(reference: bytes, compressed: bool, handler: bytes) -> None:
    assert check(movie(track(), track(2, handler, reference), compressed=compressed)) == REFERS


@pytest.mark.parametrize(
    "reference",
    [SELF, full(b"alis", 1), full(b"url ", 0), full(b"url ", 0, tail=b"\0"), full(b"alis", 1, tail=bytes(200))],
)
def test_references_to_the_file_itself_are_allowed(reference: bytes) -> None:
    assert check(movie(track(reference=reference))) == ""


def test_time_codes_in_other_files_do_not_matter() -> None:
    assert check(movie(track(), track(2, b"tmcd", external()))) == ""


def test_a_reference_movie_is_refused_unless_it_has_tracks() -> None:
    assert check(reference_movie()) == REFERS
    assert check(movie(track(), extra=box(b"rmra", bytes(8)))) == ""


MILLIONS = (2**26).to_bytes(4)


def meta(*parts: bytes) -> bytes:
    return box(b"meta", bytes(4), full(b"hdlr", 0, 0, tail=b"pict" + bytes(13)), *parts)


def pcm(chunks: int, samples: int, number: int = 1, runs: list[tuple[int, int]] | None = None) -> bytes:
    """A track of uncompressed audio with runs of chunks: first chunk and samples of each of its chunks."""
    entries = [value for first, count in runs or [(1, samples)] for value in (first, count, 1)]
    table = [
        full(b"stts", 0, 1, samples, 1),
        full(b"stsc", 0, len(entries) // 3, *entries),
        full(b"stsz", 0, 2, samples),
        full(b"stco", 0, chunks, *[48] * min(chunks, 99)),
    ]
    return track(number, b"soun", codec=b"sowt", table=table)


def groups(samples: int, version: int = 0) -> bytes:
    return box(b"sbgp", bytes([version, 0, 0, 0]), b"sync", bytes(4 * version), struct.pack(">III", 1, samples, 1))


BOMBS: dict[str, Callable[[], bytes]] = {
    "samples of one size": lambda: movie(track(table=tables(MANY, 1))),
    "samples of several sizes": lambda: movie(track(table=tables(MANY, sizes=full(b"stz2", 4, 4, MANY)))),
    "tracks": lambda: movie(*(track(number, table=tables(MANY // 20, 1)) for number in range(1, 22))),
    "audio": lambda: movie(track(handler=b"soun", table=tables(MANY, 1, ticks=2))),
    "audio that becomes video": lambda: movie(
        track(handler=b"soun", table=[*tables(MANY, 1), full(b"hdlr", 0, 0, tail=b"vide" + bytes(13))])
    ),
    "fragment": lambda: fragments(1, MANY),
    "fragments": lambda: fragments(40, MANY // 32),
    "many fragments": lambda: fragments(MANY // 2**15 + 1, 2**15),
    "a table in a fragment": lambda: fragments(1, 5).replace(b"tfdt\0\0\0\0\0\0\0\0", full(b"senc", 0, 2**31)[4:]),
    "edits": lambda: movie(track(table=tables(2**17), edits=300)),
    "uncompressed audio in many chunks": lambda: movie(*(pcm(3, 2**31 - 1, number) for number in (1, 2))),
    "uncompressed audio in small chunks": lambda: movie(pcm(MANY, 1)),
    "uncompressed audio in runs of chunks": lambda: movie(pcm(9, 2, runs=[(1, 1), (3, 2**31 - 1), (9, 1)])),
    "uncompressed audio in runs out of order": lambda: movie(pcm(9, 2, runs=[(8, 2**30), (3, 1)])),
    "time offsets": lambda: movie(track(codec=b"hvc1", table=[*tables(), full(b"ctts", 0, 1, 10 * MANY, 0)])),
    "groups": lambda: movie(track(codec=b"hvc1", table=[*tables(), groups(10 * MANY)])),
    "groups of version 1": lambda: movie(track(codec=b"hvc1", table=[*tables(), groups(10 * MANY, version=1)])),
    "encryption": lambda: movie(track(table=[*tables(), full(b"senc", 0, 2**31)])),
    "encryption of PIFF": lambda: movie(
        track(table=[*tables(), box(b"uuid", boxes.ENCRYPTION, struct.pack(">II", 0, 2**31))])
    ),
    "a compressed header": lambda: movie(track(table=tables(MANY, 1)), compressed=True),
    "a header in free space": lambda: movie(track(table=tables(MANY, 1))).replace(b"moov", b"free"),
    "a header in metadata": lambda: movie(extra=meta(track(table=tables(MANY, 1)))),
    "a track without a header": lambda: box(b"ftyp", b"isom", bytes(4)) + track(table=tables(MANY, 1)),
    "a track inside of another": lambda: movie(box(b"trak", track(table=tables(MANY, 1)))),
    "tables without their parent": lambda: movie(track(table=tables(MANY, 1))).replace(b"stbl", b"minf"),
    "items": lambda: movie(extra=meta(box(b"iinf", b"\1\0\0\0", MILLIONS))),
    "locations of items": lambda: movie(extra=meta(box(b"iloc", b"\2\0\0\0\x44\0", MILLIONS))),
    "keys of tags": lambda: movie(extra=meta(full(b"keys", 0, 2**26))),
    "boxes": lambda: movie(extra=box(b"trak", box(b"free") * (boxes.MAX_BOXES + 1))),
}


@pytest.mark.parametrize("name", BOMBS)
def test_headers_that_would_exhaust_memory_are_refused(name: str, tmp_path: Path) -> None:
    content = BOMBS[name]()
    assert check(content).startswith(TOO_LARGE)
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(MediaError, match=TOO_LARGE):
        open_media(tmp_path / "a.mp4")


def test_size_of_a_compressed_header_is_limited() -> None:
    content = movie(extra=box(b"free", bytes(boxes.MAX_HEADER)), compressed=True)
    assert len(content) < 2**17
    assert check(content).startswith(TOO_LARGE)


def test_hours_of_uncompressed_audio_are_accepted(tmp_path: Path) -> None:
    """FFmpeg makes packets of 1024 samples, so that billions of samples need little memory."""
    assert check(movie(track(handler=b"soun", codec=b"sowt", table=tables(2**31, 2)))) == ""
    content = movie(track(handler=b"soun", codec=b"sowt", table=tables(10 * MANY, 2, chunk=10 * MANY)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with av.open(io.BytesIO(content)) as container:
        assert container.streams.audio[0].frames == 10 * MANY
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_packets_of_uncompressed_audio_are_counted_by_chunk() -> None:
    """FFmpeg makes packets of 160 to 1,024 samples, and at least one for each chunk."""
    table = np.array([(1, 100), (3, 1600), (4, 161)])
    assert boxes._packets(table, 6) == 2 * 1 + 10 + 3 * 1
    assert boxes._packets(np.array([(2, 1600), (2, 5)]), 6) == 6 * 10  # FFmpeg replaces invalid entries by others
    assert boxes._packets(np.zeros((0, 2), int), 6) == 0


def test_time_offsets_and_groups_of_a_day_of_video_are_fine() -> None:
    count = 24 * 3600 * 60
    table = [*tables(count), full(b"ctts", 0, 2, count - 9, 0, 9, 1), groups(count)]
    assert check(movie(track(codec=b"hvc1", table=table))) == ""


def test_small_numbers_of_items_have_16_bits() -> None:
    assert check(movie(extra=meta(full(b"iinf", 0, 0xFFFF_0000), full(b"iloc", 0, 0xFFFF_0000, 0xFFFF_FFFF)))) == ""


def test_a_day_of_video_is_accepted() -> None:
    assert (
        check(movie(track(table=tables(24 * 3600 * 60)), track(2, b"soun", table=tables(24 * 3600 * 47, ticks=1024))))
        == ""
    )


@pytest.mark.parametrize("max_boxes", [2, 3])
def test_only_the_first_boxes_of_a_remote_file_are_checked(max_boxes: int) -> None:
    content = box(b"ftyp", bytes(8)) + box(b"free", bytes(8)) + box(b"moov", track(table=tables(MANY, 1)))
    assert bool(check(content, max_boxes)) == (max_boxes == 3)


@pytest.mark.parametrize(
    "content", [b"", b"\0", bytes(100), b"\0\0\0\1moov", b"\0\0\0\1moov" + b"\xff" * 8, b"RIFF" * 9]
)
def test_other_formats_pass_the_check(content: bytes) -> None:
    assert check(content) == ""


def test_damaged_headers_raise_no_exception() -> None:
    rng = random.Random(0)
    for content in (movie(track(edits=2)), movie(track(), compressed=True), reference_movie(), fragments(2, 5)):
        for _ in range(300):
            damaged = bytearray(content[: rng.randrange(1, len(content))] if rng.random() < 0.3 else content)
            for _ in range(rng.randrange(1, 9)):
                damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 8, 255, rng.randrange(256)))
            assert isinstance(check(bytes(damaged)), str)
