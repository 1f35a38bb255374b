"""Directories that are replaced atomically."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from vatt import directories
from vatt.directories import lock_directory, remove_leftovers, replace_files
from vatt.errors import DirectoryInUse


def test_old_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    for name in (".a.0123.part.json", ".b.0123.part", "c.part", ".d.json"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    remove_leftovers(tmp_path, older_than_s=-1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".d.json", "c.part"]
    remove_leftovers(tmp_path / "missing")


def test_an_exclusive_lock_waits_for_shared_ones_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directories, "LOCK_TIMEOUT_S", 0.02)
    in_use = pytest.raises(DirectoryInUse, match=f"another process is using {tmp_path}: wait")
    with lock_directory(tmp_path, shared=True), lock_directory(tmp_path, shared=True), in_use, lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path), in_use, lock_directory(tmp_path, shared=True):
        pass
    assert list(tmp_path.iterdir()) == []
    with lock_directory(tmp_path / "missing"):
        pass


def test_a_file_system_without_locks_is_not_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr("fcntl.flock", unsupported)
    with replace_files(tmp_path, last="a") as files:
        (files / "a").write_text("1")
    assert (tmp_path / "a").read_text() == "1"
