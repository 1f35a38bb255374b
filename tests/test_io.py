from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from vatt.errors import WriteError
from vatt.io import atomic_path, atomic_write, file_hash, write_errno


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path, "w") as file:
        file.write("first ✓")
        assert not path.exists()
    with atomic_write(path) as file:
        file.write(b"second")
        assert path.read_text(encoding="utf-8") == "first ✓"
    assert path.read_text() == "second"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_previous_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"before")

    def fail() -> None:
        with atomic_write(path) as file:
            file.write(b"half")
            raise KeyError("x")

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_temporary_file_has_the_suffix_and_is_hidden(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "image.png") as temporary:
        assert (temporary.suffix, temporary.name[0], temporary.parent) == (".png", ".", tmp_path)
        temporary.write_bytes(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["image.png"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
import numpy as np, torch, faiss, pyarrow as pa, pyarrow.parquet as pq
from safetensors.torch import save_file
from vatt.errors import WriteError
from vatt.io import atomic_path, atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder, big = Path(sys.argv[1]), torch.zeros(100_000)
index = faiss.IndexFlatIP(8); index.add(np.zeros((10_000, 8), np.float32))
noise = pa.table({"x": np.random.default_rng(0).random(10_000)})
def to_file(save):
    with atomic_write(folder / "file") as file: save(file)
def to_path(save):
    with atomic_path(folder / "file") as path: save(str(path))
writers = {
    "bytes": lambda: to_file(lambda file: file.write(bytes(10_000))),
    "torch": lambda: to_file(lambda file: torch.save(big, file)),
    "numpy": lambda: to_file(lambda file: np.save(file, big.numpy())),
    "safetensors": lambda: to_path(lambda path: save_file({"x": big}, path)),
    "faiss": lambda: to_path(lambda path: faiss.write_index(index, path)),
    "parquet": lambda: to_path(lambda path: pq.write_table(noise, path)),
}
for name, write in writers.items():
    try: write()
    except WriteError as error: print(name, error.errno, error)
print(sorted(path.name for path in folder.iterdir()), (folder / "file").read_text())
"""


def test_failed_writes_of_all_libraries_raise_write_error(tmp_path: Path) -> None:
    """A limit of the file size replaces a full disk: the same system call fails."""
    (tmp_path / "file").write_text("before")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    *lines, last = done.stdout.splitlines()
    for line, name in zip(lines, ("bytes", "torch", "numpy", "safetensors", "faiss", "parquet"), strict=True):
        code = errno.ENOSPC if name == "numpy" else errno.EFBIG  # NumPy drops the number
        assert line == f"{name} {code} cannot write {tmp_path / 'file'}: {os.strerror(code)}"
    assert last == "['file'] before"


def test_other_errors_are_not_write_errors(tmp_path: Path) -> None:
    assert write_errno(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert write_errno(RuntimeError("write error: No space left on device")) == errno.ENOSPC
    assert write_errno(OSError("100 requested and 12 written")) == errno.ENOSPC
    with (
        pytest.raises(WriteError, match=r"cannot write .*file: Read-only file system"),
        atomic_write(tmp_path / "file"),
    ):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def test_a_file_hash_is_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_hash(tmp_path / "file") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_temporary_file_without_suffix_and_file_names_of_nested_errors(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "a.parquet", keep_suffix=False) as temporary:
        assert temporary.suffix == ".part"
        temporary.write_bytes(b"x")
    with pytest.raises(WriteError, match=r"cannot write .*inner: No space left"), atomic_path(tmp_path / "outer"):
        raise WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "inner"))


def test_a_new_file_has_the_usual_permissions_and_a_replaced_one_keeps_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, path = tmp_path / "usual", tmp_path / "private"
    usual.touch()
    for expected in (stat.S_IMODE(usual.stat().st_mode), 0o640):
        with atomic_path(path) as temporary:
            temporary.touch(mode=0o600)  # as safetensors does
        assert stat.S_IMODE(path.stat().st_mode) == expected
        path.chmod(0o640)
    monkeypatch.setattr(os, "fchmod", Mock(side_effect=PermissionError))  # a file system with fixed permissions
    with atomic_path(tmp_path / "private") as temporary:
        temporary.touch(mode=0o600)
    assert {entry.name for entry in tmp_path.iterdir()} == {"usual", "private"}


def test_a_hard_link_to_the_file_itself_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with atomic_path(path) as temporary:
        os.link(path, temporary)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_write_errno_stops_at_a_circular_chain_of_causes() -> None:
    first, second = RuntimeError("first"), RuntimeError("second")
    first.__cause__, second.__cause__ = second, first
    assert write_errno(first) is None
