"""Files for PyAV that raise all exceptions, such as the `KeyboardInterrupt` of a signal handler."""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, BinaryIO

SEEK = struct.Struct("=qi")  # arguments of `seek`; no seek is pending if the second one is -1
NO_SEEK = (0, -1)


class Callbacks:
    """The methods of a file that PyAV calls while FFmpeg reads.

    PyAV passes on an `Exception` of a callback, but Python ignores any other `BaseException`, and FFmpeg then takes the
    file for damaged. Here, the file ends for FFmpeg after any exception, and `raising` raises it.

    A signal handler may run at the very beginning of a Python function, before any ``try`` in it. Thus, PyAV only calls
    methods that are written in C: those of a generator, which is resumed inside its ``try``, and one that stores the
    arguments of ``seek``. For a ``seek`` that returns None, PyAV uses the position it asked for, or calls ``tell``.

    Args:
        file: File that is open for reading.
        name: Name that FFmpeg gets, which helps to detect the format.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self._errors, position = name, [], bytearray(SEEK.pack(*NO_SEEK))
        self.seekable: Callable[[], bool] = file.seekable
        generator = _serve(file, position, self._errors)
        next(generator)
        self.read: Callable[[int], bytes] = generator.send
        self.tell: Callable[[], int] = generator.__next__
        self.seek: Callable[[int, int], None] = partial(SEEK.pack_into, position, 0)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Raise the first exception of the callbacks after a call of PyAV, in place of what PyAV raises."""
        try:
            yield
        finally:
            if self._errors:
                error = self._errors[0]
                self._errors.clear()
                raise error from None


def _serve(file: BinaryIO, position: bytearray, errors: list[BaseException]) -> Generator[Any, int | None, None]:
    """Yield what is read for each number of bytes that is sent, and the position in the file for None."""
    result: bytes | int = b""
    while True:
        try:
            size = yield result
            result = -1 if size is None else b""
            offset, whence = SEEK.unpack(position)
            if whence >= 0:
                SEEK.pack_into(position, 0, *NO_SEEK)
                file.seek(offset, whence)
            if not errors:
                result = file.tell() if size is None else file.read(size)
        except GeneratorExit:
            raise
        except BaseException as error:
            errors.append(error)
            result = -1 if isinstance(result, int) else b""
