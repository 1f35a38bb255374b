"""Temporary directories of processes that run, have ended, or were killed."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.retrieval.pages import make_site
from vatt.retrieval.web.temporary import MIN_AGE_S, TemporaryFolder

SCRIPT = """
import sys
from vatt.retrieval.web.temporary import TemporaryFolder
folder = TemporaryFolder("vatt-test-")
(folder.path / "file").write_text("x")
print(folder.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def start(root: Path) -> tuple[subprocess.Popen[str], Path]:
    """Start a process that makes a directory, which then is old."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"TMPDIR": str(root)}, cwd=ROOT, **pipes
    )
    path = Path(process.stdout.readline().strip())
    assert path.parent == root
    make_old(path)
    return process, path


def make_old(path: Path) -> None:
    time_s = path.stat().st_mtime - 2 * MIN_AGE_S
    os.utime(path, (time_s, time_s))


def test_directories_of_killed_processes_are_deleted(root: Path) -> None:
    (running, kept), (killed, abandoned), (ended, deleted) = start(root), start(root), start(root)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    ended.communicate()
    assert [path.exists() for path in (kept, abandoned, deleted)] == [True, True, False]
    folder = TemporaryFolder("vatt-test-")
    assert sorted(root.iterdir()) == sorted([kept, folder.path])
    assert (kept / "file").exists()
    assert os.stat(folder.path).st_mode & 0o777 == 0o700
    running.communicate()
    folder.delete()
    assert list(root.iterdir()) == []


def test_other_directories_are_kept(root: Path) -> None:
    """Those of this process, young ones, links, files, and other names."""
    first = TemporaryFolder("vatt-test-")
    (root / "target").mkdir()
    (root / "vatt-test-link").symlink_to(root / "target")
    (root / "vatt-test-file").touch()
    for path in (first.path, root / "target", root / "vatt-test-file"):
        make_old(path)
    (root / "vatt-test-young").mkdir()
    before = sorted(root.iterdir())
    second = TemporaryFolder("vatt-test-")
    assert sorted(root.iterdir()) == sorted([*before, second.path])


def test_a_directory_is_deleted_with_its_object(root: Path) -> None:
    folder = TemporaryFolder("vatt-test-")
    path, closing = folder.path, folder._closing
    del folder
    gc.collect()
    assert not path.exists()
    assert not closing.alive  # the descriptor is closed


@pytest.mark.slow
def test_gradio_leaves_no_directory(root: Path, tmp_path_factory: pytest.TempPathFactory, video_file: Path) -> None:
    """In a process of its own: Gradio reads the name of its directory when it is imported."""
    pytest.importorskip("gradio")
    index = make_site(tmp_path_factory.mktemp("site"), video_file, video_file)
    script = "import sys; from vatt.retrieval.app import make_app; make_app(sys.argv[1])"
    options = {"env": os.environ | {"TMPDIR": str(root)}, "cwd": ROOT, "check": True}
    subprocess.run([sys.executable, "-c", script, str(index)], **options)
    assert list(root.iterdir()) == []
