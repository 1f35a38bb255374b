from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

from vatt.cli import doctor as clinic
from vatt.cli.doctor import Finding
from vatt.cli.main import main

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing but the packages is looked at."""
    for name in ("media", "codecs", "search", "devices", "space", "system"):
        monkeypatch.setattr(clinic, name, lambda: iter(()))
    monkeypatch.setattr(clinic, "NEEDED", ())
    monkeypatch.setattr(clinic, "EXTRAS", ())


def test_this_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--format", "json"]) == 0
    found = {finding["what"]: finding for finding in json.loads(capsys.readouterr().out)}
    for what in ("vatt", "Python", "torch", "av", "faiss-cpu", "CPU", "codecs it reads", "decoder pyav", "FAISS"):
        assert found[what]["state"] == "ok", found[what]
    assert "2, 3, 64, 64" in found["decoder pyav"]["found"]
    assert "libx264" in found["codecs it writes"]["found"]


def test_what_is_missing_is_said_with_what_to_do(
    only: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("no_such_module", "no-such-package", "search", "vatt search")
    monkeypatch.setattr(clinic, "EXTRAS", (extra,))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "missing  no-such-package: for vatt search" in printed
    assert '-> pip install "vatt[search]"' in printed
    monkeypatch.setattr(clinic, "NEEDED", (extra[:2] + extra[3:],))
    assert main(["doctor"]) == 1
    assert "1 things to mend: no-such-package" in capsys.readouterr().out


def test_what_cannot_be_imported_is_broken_or_a_note(
    only: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "torn.py").write_text("raise OSError('libnothing.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(clinic, "EXTRAS", (("torn", "torn", "decord", "decoding"),))
    assert main(["doctor"]) == 0
    assert "note     torn:  cannot be imported: OSError: libnothing.so: cannot open" in capsys.readouterr().out
    monkeypatch.setattr(clinic, "NEEDED", (("torn", "torn", "everything"),))
    assert main(["doctor"]) == 1
    assert "BROKEN   torn" in capsys.readouterr().out


def test_a_check_that_fails_is_a_finding(
    only: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def media() -> Iterator[Finding]:
        yield Finding("ok", "first", "fine")
        raise RuntimeError("no encoder\nand more")

    monkeypatch.setattr(clinic, "media", media)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "ok       first: fine" in printed
    assert "BROKEN   media: RuntimeError: no encoder\n" in printed


def test_little_room_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**29))
    found = {finding.what: finding for finding in clinic.space()}
    assert {found[what].state for what in ("disk here", "disk for temporary files", "shared memory")} == {"note"}
    assert "--shm-size" in found["shared memory"].advice
