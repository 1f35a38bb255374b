from __future__ import annotations

import os
from pathlib import Path

import pytest

from vatt.errors import InputError
from vatt.untrusted import inner_file, read_json


def test_read_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"a": [1, "ü"]}', encoding="utf-8")
    assert read_json(path) == {"a": [1, "ü"]}
    path.write_text('{"a": [1, "ü"]}', encoding="utf-8-sig")
    assert read_json(path) == {"a": [1, "ü"]}
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "b.json")
    for data, match in (
        (b"", "is damaged"),
        (b"[1]", "expected a JSON object, got list"),
        (b'{"a": "\xff"}', "is damaged"),
        (b'{"a": "\\ud800"}', "is damaged"),
        (b'{"a":' * 100_000, "is damaged: nested too deeply"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "is damaged"),
        (b'{"a": "' + b"x" * 2**20, "has more than 1 MiB"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=match):
            read_json(path)


def test_inner_file(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_text("x")
    (folder / "inside").symlink_to("a")
    (folder / "outside").symlink_to("../secret")
    (folder / "loop").symlink_to("loop")
    (folder / "directory").mkdir()
    (tmp_path / "secret").write_text("x")
    os.mkfifo(folder / "pipe")
    (tmp_path / "link").symlink_to(folder)  # to the directory
    for name in ("a", "inside"):
        assert inner_file(tmp_path / "link", name).read_text() == "x"
    with pytest.raises(FileNotFoundError):
        inner_file(folder, "b")
    for name in ("", ".", "..", "../secret", "/etc/passwd", "a\0", "outside", "loop", "directory", "pipe"):
        with pytest.raises(InputError, match=str(folder)):
            inner_file(folder, name)
