"""Clips by the million as Arrow columns in one block of memory, which every process of a run shares."""

from __future__ import annotations

import json
import pickle
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, overload

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from vatt.structures import Clip, Event, TimedText

BLOCK = 4096  # clips that are converted at once
COMPRESSED_BYTES = 512  # of packed texts; shorter ones are not compressed
ZLIB_LEVEL = 1
PICKLE = b"\x80"  # first byte of pickled texts that are not compressed
CPU = torch.device("cpu")  # whatever the default device is, such as "meta" while models are built
Timed = tuple[list[str], list[float | None], list[float | None]]  # texts, their starts and ends in seconds
Columns = dict[str, pa.ChunkedArray]
STRING, STRINGS = pa.large_string(), pa.large_list(pa.large_string())
SCHEMA = pa.schema(
    [
        ("id", STRING),
        ("path", STRING),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("labels", STRINGS),
        ("split", STRING),
        ("audio_path", STRING),
        ("extra", STRING),  # a JSON object; null without columns x_…
        ("texts", STRINGS),  # captions without times
        ("timed", pa.large_binary()),  # packed texts and words, in place of `texts`, where any of them has a time
    ]
)
HEAD = SCHEMA.names[:8]


class ClipTable(Sequence[Clip]):
    """Sequence of clips that makes a `Clip` at every access, from Arrow columns.

    A million `Clip` objects with timed texts take tens of GB, which every worker process would copy by and by, as it
    counts references. The columns are in tensors, which forked and spawned workers share. Captions without times
    are a column; lists of timed texts, which are long, are compressed row by row.

    Args:
        clips: Clips of any kind. An iterator is not kept.

    Attributes:
        skipped: Rows of the manifest that are not clips, because their paths are not valid Unicode.

    Example:
        >>> table = ClipTable([Clip("a", "a.mp4"), Clip("b", "b.mp4", labels=("dog",))])
        >>> table[1].labels, [clip.id for clip in table.take([1, 0]).heads()]
        (('dog',), ['b', 'a'])
    """

    def __init__(self, clips: Iterable[Clip] = ()) -> None:
        clips = iter(clips)
        blocks = iter(lambda: list(islice(clips, BLOCK)), [])
        table = pa.Table.from_batches(map(to_columns, blocks), SCHEMA)
        self._set(dict(zip(table.column_names, table.columns, strict=True)))

    @classmethod
    def from_columns(cls, columns: Columns, skipped: Iterable[Event] = ()) -> ClipTable:
        """Make a table of the columns of `SCHEMA`, which are removed from the dictionary to free their memory."""
        table = object.__new__(cls)
        table._set(columns, tuple(skipped))
        return table

    def _set(self, columns: Columns, skipped: tuple[Event, ...] = ()) -> None:
        self._rows = torch.arange(len(columns["id"]), device=CPU)
        # One after the other, so that only one column is in memory twice.
        arrays = [_to_bytes(columns.pop(name)) for name in SCHEMA.names]
        self._prefix, self.skipped = "", skipped
        self._open([*map(torch.from_numpy, arrays)], arrays)

    def _open(self, tensors: Sequence[Tensor], arrays: Sequence[np.ndarray]) -> None:
        """Create Arrow columns that view the bytes of the arrays.

        PyTorch moves the storage of a tensor to shared memory when the tensor is pickled for a worker process, and
        frees the old storage. So the memory of a tensor that is not shared belongs to an array, which the columns keep.
        """
        self._bytes, self._pointers = tuple(tensors), tuple(tensor.data_ptr() for tensor in tensors)
        self._open_columns = tuple(map(_from_bytes, arrays))

    @property
    def _columns(self) -> tuple[pa.Array, ...]:
        """Return the columns.

        They are recreated if PyTorch has moved the tensors to shared memory, so that the old memory is freed.
        """
        if self._pointers[-1] != self._bytes[-1].data_ptr() and all(tensor.is_shared() for tensor in self._bytes):
            self._open(self._bytes, [tensor.numpy() for tensor in self._bytes])
        return self._open_columns

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_open_columns", "_pointers")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        arrays = [tensor.numpy() if tensor.is_shared() else tensor.numpy().copy() for tensor in self._bytes]
        pairs = zip(self._bytes, arrays, strict=True)
        self._open([tensor if tensor.is_shared() else torch.from_numpy(array) for tensor, array in pairs], arrays)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Clip: ...
    @overload
    def __getitem__(self, index: slice) -> ClipTable: ...
    def __getitem__(self, index: int | slice) -> Clip | ClipTable:
        """Return one clip, or a table of several."""
        if isinstance(index, slice):
            return self.take(range(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        row = self._rows[index].item()
        *head, texts, timed = [column[row].as_py() for column in self._columns]
        if timed is not None:
            return _to_clip(self._prefix, *head, *(tuple(map(TimedText, *part)) for part in unpack(timed)))
        return _to_clip(self._prefix, *head, tuple(map(TimedText, texts or ())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ClipTable({len(self)} clips)"

    def heads(self) -> Iterator[Clip]:
        """Yield the clips without their texts and words, which is many times faster."""
        columns = pa.record_batch([*self._columns[: len(HEAD)]], names=HEAD)
        for rows in self._rows.split(BLOCK):
            block = columns.take(pa.array(rows.numpy())) if len(rows) else columns.slice(0, 0)
            for values in zip(*(column.to_pylist() for column in block.columns), strict=True):
                yield _to_clip(self._prefix, *values)

    def take(self, indices: Iterable[int]) -> ClipTable:
        """Return some of the clips, in the given order, without copying any."""
        return self._like(self._rows[torch.tensor([*indices], dtype=torch.int64, device=CPU)])

    def named(self, prefix: str) -> ClipTable:
        """Return the same clips with ``prefix`` before their ids."""
        table = self._like(self._rows)
        table._prefix = prefix + self._prefix
        return table

    @property
    def num_bytes(self) -> int:
        """Memory of the table, together with the tables that it was taken from."""
        return sum(tensor.numel() * tensor.element_size() for tensor in (*self._bytes, self._rows))

    def _like(self, rows: Tensor) -> ClipTable:
        table = object.__new__(ClipTable)
        table.__dict__.update(self.__dict__, _rows=rows)
        return table


def to_columns(clips: Sequence[Clip]) -> pa.RecordBatch:
    """Convert clips to Arrow columns with the schema `SCHEMA`."""
    values: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for clip in clips:
        has_times = bool(clip.words) or any((t.start_s, t.end_s) != (None, None) for t in clip.texts)
        row = {name: getattr(clip, name) for name in HEAD}
        row["extra"] = json.dumps(dict(clip.extra)) if clip.extra else None
        row["texts"] = None if has_times or not clip.texts else [text.text for text in clip.texts]
        row["timed"] = pack(*map(_to_timed, (clip.texts, clip.words))) if has_times else None
        for name, column in values.items():
            column.append(row[name])
    return pa.record_batch([pa.array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)


def pack(texts: Timed, words: Timed) -> bytes:
    """Return texts and words as bytes, for the column ``timed``; `unpack` reads them."""
    packed = pickle.dumps((texts, words), 5)
    return packed if len(packed) < COMPRESSED_BYTES else zlib.compress(packed, ZLIB_LEVEL)


def unpack(packed: bytes) -> tuple[Timed, Timed]:
    """Return the texts and words of `pack`."""
    return pickle.loads(packed if packed.startswith(PICKLE) else zlib.decompress(packed))


def _to_clip(
    prefix: str,
    clip_id: str,
    path: str,
    start_s: float,
    end_s: float | None,
    labels: list[str] | None,
    split: str | None,
    audio_path: str | None,
    extra: str | None,
    texts: tuple[TimedText, ...] = (),
    words: tuple[TimedText, ...] = (),
) -> Clip:
    labels = () if labels is None else tuple(labels)
    extra = {} if extra is None else json.loads(extra)
    return Clip(prefix + clip_id, path, start_s, end_s, texts, words, labels, split, audio_path, extra)


def _to_timed(texts: Sequence[TimedText]) -> Timed:
    return [text.text for text in texts], [text.start_s for text in texts], [text.end_s for text in texts]


def _to_bytes(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column as bytes of an Arrow stream.

    A column without values is stored with type null, which takes no memory.
    """
    is_empty = column.null_count == len(column)
    array = pa.nulls(len(column)) if is_empty else pa.concat_arrays(column.chunks)
    del column
    batch = pa.record_batch([array], names=["column"])
    counter = pa.MockOutputStream()
    _write(counter, batch)
    stream = np.empty(counter.size(), np.uint8)
    _write(pa.FixedSizeBufferWriter(pa.py_buffer(stream)), batch)
    del array, batch
    pa.default_memory_pool().release_unused()
    return stream


def _from_bytes(stream: np.ndarray) -> pa.Array:
    """Return the column in the bytes of `_to_bytes`, without copying it."""
    return pa.ipc.open_stream(pa.py_buffer(stream)).read_next_batch().column(0)


def _write(sink: Any, batch: pa.RecordBatch) -> None:
    """Write a batch as an Arrow stream."""
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
