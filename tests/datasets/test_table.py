"""Clips packed into bytes come out as they went in, and processes share them."""

from __future__ import annotations

from copy import deepcopy
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vatt.datasets.table import ClipTable
from vatt.structures import Clip, TimedText

WORDS = st.text(max_size=8)
SECONDS = st.none() | st.floats(0, 1e5)
TIMED = st.lists(st.builds(TimedText, WORDS, SECONDS, SECONDS), max_size=4).map(tuple)
CLIPS = st.lists(
    st.builds(
        Clip,
        id=WORDS,
        path=WORDS,
        start_s=st.floats(0, 100),
        end_s=SECONDS,
        texts=TIMED,
        words=TIMED,
        labels=st.lists(WORDS, max_size=2).map(tuple),
        split=st.none() | WORDS,
        audio_path=st.none() | WORDS,
        extra=st.dictionaries(st.just("x_more"), st.integers() | st.lists(WORDS, max_size=2)),
    ),
    max_size=6,
)


def clip(number: int, num_texts: int = 3) -> Clip:
    texts = tuple(TimedText(f"text {number} {i}", float(i), i + 0.5) for i in range(num_texts))
    return Clip(id=f"clip {number}", path=f"{number}.mp4", texts=texts, labels=("ring",))


@settings(deadline=None, max_examples=60)
@given(CLIPS, st.slices(6))
def test_what_goes_in_comes_out(clips: list[Clip], part: slice) -> None:
    table = ClipTable(iter(clips))
    assert list(table) == clips
    assert table == clips
    assert table[part] == clips[part]
    assert [(c.id, c.path, c.labels, c.extra, c.texts) for c in table.heads()] == [
        (c.id, c.path, c.labels, c.extra, ()) for c in clips
    ]


def test_a_table_is_read_like_a_list() -> None:
    clips = [clip(i) for i in range(5)]
    table = ClipTable(clips)
    assert table[-1] == clips[-1]
    assert clips[3] in table
    assert table != clips[:4]
    assert list(reversed(table)) == clips[::-1]
    for index in (5, -6):
        try:
            table[index]
        except IndexError:
            continue
        raise AssertionError(f"no clip {index}")


def test_parts_of_a_table_copy_nothing() -> None:
    table = ClipTable(clip(i) for i in range(9))
    part = table.take([7, 2]).named("set/")
    assert [c.id for c in part] == ["set/clip 7", "set/clip 2"]
    assert [c.id for c in part.heads()] == ["set/clip 7", "set/clip 2"]
    assert part[1:].named("all/")[0].texts == clip(2).texts
    assert part[1:].named("all/")[0].id == "all/set/clip 2"
    for a, b in zip(part._bytes, table._bytes, strict=True):
        assert a.data_ptr() == b.data_ptr()
    offset = part._columns[0].buffers()[2].address - part._bytes[0].data_ptr()
    assert 0 <= offset < part._bytes[0].numel()


def test_a_row_of_a_hundred_texts_takes_a_tenth_of_its_objects() -> None:
    table = ClipTable(clip(i, num_texts=100) for i in range(50))
    assert table.num_bytes < 50 * 2_400


class _Ids(torch.utils.data.Dataset[str]):
    def __init__(self, clips: ClipTable) -> None:
        self.clips = clips

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> tuple[str, bool]:
        return self.clips[index].id, all(block.is_shared() for block in self.clips._bytes)


def test_spawned_workers_share_the_bytes() -> None:
    table = ClipTable(clip(i) for i in range(4)).take([3, 1])
    loader = DataLoader(_Ids(table), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert list(loader) == [["clip 3", True], ["clip 1", True]]


@pytest.mark.parametrize("copy", [False, True])
def test_the_table_stays_valid_when_its_tensors_move_to_shared_memory(copy: bool) -> None:
    """Pickling for a spawned worker frees the memory that tensors had before."""
    clips = [clip(i) for i in range(500)]
    table = ClipTable(clips)
    if copy:
        table = deepcopy(table)
    part, heads = table.take([499, 3]), table.heads()
    first = next(heads)
    ForkingPickler.dumps(table)
    overwritten = [torch.full_like(block, 255) for block in table._bytes for _ in range(20)]
    assert list(part) == [clips[499], clips[3]]
    assert list(table) == clips
    assert [first.id, *(head.id for head in heads)] == [c.id for c in clips]
    address = table._columns[0].buffers()[2].address - table._bytes[0].data_ptr()
    assert table._bytes[0].is_shared()
    assert 0 <= address < table._bytes[0].numel()
    del overwritten


def test_the_table_is_read_after_spawned_workers() -> None:
    clips = [clip(i) for i in range(200)]
    table = ClipTable(clips)
    loader = DataLoader(_Ids(table), batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [name for name, _ in loader] == [c.id for c in clips]
    assert list(table) == clips
