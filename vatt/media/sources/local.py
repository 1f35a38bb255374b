"""Regular files of this machine. Devices, pipes and pseudo-files of the kernel are refused."""

from __future__ import annotations

import errno
import io
import os
import stat
from functools import lru_cache


def regular_file(file: str) -> os.stat_result:
    """Return the status of a regular file.

    Raises:
        OSError: There is no such file, or it is a directory, a device, a pipe or a kernel pseudo-file.
    """
    status, folder = os.stat(file), os.stat(os.path.dirname(file) or ".")
    kernel, devices = _kernel_files()
    is_special = not stat.S_ISREG(status.st_mode) or status.st_dev in kernel or folder.st_dev in kernel
    if is_special or (folder.st_dev, folder.st_ino) == devices:
        raise OSError(errno.EINVAL, "is not a regular file", file)
    return status


@lru_cache(maxsize=1)
def _kernel_files() -> tuple[frozenset[int], tuple[int, int] | None]:
    """Return the device numbers of /proc and /sys, and the device and inode numbers of /dev."""
    kernel = frozenset(os.stat(root).st_dev for root in ("/proc", "/sys") if os.path.ismount(root))
    devices = os.stat("/dev") if os.path.isdir("/dev") else None
    return kernel, devices and (devices.st_dev, devices.st_ino)


def open_local(file: str) -> tuple[io.FileIO, int]:
    """Open a regular file; return it and its size.

    Raises:
        OSError: There is no regular file.
    """
    regular_file(file)  # opening a device may have effects
    descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    opened = io.FileIO(descriptor)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # replaced in the meantime
        opened.close()
        raise OSError(errno.EINVAL, "is not a regular file", file)
    return opened, status.st_size
