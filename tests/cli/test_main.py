from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import pytest

from vatt import __version__
from vatt.cli import main as front
from vatt.cli.main import COMMANDS, main
from vatt.errors import VattError

HEAVY = ("torch", "numpy", "lightning", "av", "faiss", "pyarrow", "jsonargparse", "matplotlib", "transformers")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([], ["--help"], ["help"]):
        assert main(argv) == 0
        printed = capsys.readouterr().out
        for word in COMMANDS:
            assert f"  {word} " in printed


def test_help_names_all_models_that_are_converted(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["--help"], ["convert", "--help"]):
        with suppress(SystemExit):
            main(argv)
        printed = " ".join(capsys.readouterr().out.split())
        assert all(name in printed for name in ("VATT (TensorFlow", "VideoMAE", "V-JEPA", "V-JEPA 2"))


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from vatt.cli.main import main; main(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & set(HEAVY)
    assert "vatt.cli.main" in loaded


@pytest.mark.parametrize("word", [word for word in COMMANDS if word != "pretrain"])
def test_every_command_explains_its_options(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([word, "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: vatt {word}" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vatt {__version__}\n"


def test_a_misspelt_command_is_named_with_the_one_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serch", "runs/index", "words"]) == 2
    assert "unknown command 'serch'; did you mean 'search'?" in capsys.readouterr().err


def test_a_misspelt_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["index", "somewhere", "--ouput", "x"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "vatt index: error: there is no option --ouput; did you mean --output?\n"


def test_expected_errors_are_one_line_and_others_are_not_hidden(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(error: BaseException) -> None:
        def run(word: str, rest: list[str]) -> int:
            raise error

        monkeypatch.setattr(front, "_run", run)

    fails(VattError("the file is broken"))
    assert main(["index"]) == 2
    assert capsys.readouterr().err == "vatt index: error: the file is broken\n"
    fails(KeyboardInterrupt())
    assert main(["index"]) == 130
    fails(ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        main(["index"])
    monkeypatch.setenv("VATT_TRACE", "1")
    fails(VattError("the file is broken"))
    with pytest.raises(VattError):
        main(["index"])


@pytest.mark.parametrize(("own", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_omp_wait_policy_is_passive_by_default(own: str | None, expected: str) -> None:
    """The variable is set before PyTorch is imported."""
    code = "import os, sys; from vatt.cli.main import main; main(['--version']); assert 'torch' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if own is None else {"OMP_WAIT_POLICY": own}
    printed = subprocess.run(
        [sys.executable, "-c", f"{code}; print(os.environ['OMP_WAIT_POLICY'])"], env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert printed.stdout.splitlines()[-1] == expected


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/disk/a"), "cannot write /disk/a: No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "cannot write: Read-only file system"),
        (RuntimeError("Error in write: No space left on device"), "cannot write: No space left on device"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b"), "/a/b: Not a directory"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/a/b"), "/a/b: File name too long"),
        (MemoryError(), "not enough memory"),
        (MemoryError("Unable to allocate 9 TiB"), "not enough memory: Unable to allocate 9 TiB"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes\nat x.cpp"),
         "not enough memory: DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"),
    ],
)  # fmt: skip
def test_full_disk_and_missing_memory_are_reported_in_one_line(
    error: Exception, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(word: str, rest: list[str]) -> int:
        raise error

    monkeypatch.setattr(front, "_run", run)
    assert main(["index"]) == 2
    assert capsys.readouterr().err == f"vatt index: error: {message}\n"


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "vatt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"vatt {__version__}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_signals_exit_with_their_status(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int) -> None:
    """The handler raises SystemExit, so that temporary files are deleted. An existing handler is kept."""
    monkeypatch.setattr("vatt.cli.main._run", lambda *_: 0)
    before = signal.getsignal(number)
    try:
        signal.signal(number, signal.SIG_DFL)
        assert main(["flops"]) == 0
        with pytest.raises(SystemExit) as stopped:
            signal.raise_signal(number)
        assert stopped.value.code == status
        signal.signal(number, signal.SIG_IGN)  # as under nohup
        assert main(["flops"]) == 0
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_broken_pipe_is_not_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def ended(*_: object) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    replaced = []
    monkeypatch.setattr("vatt.cli.main._run", ended)
    monkeypatch.setattr("os.dup2", lambda *files: replaced.append(files[1]))
    assert main(["flops"]) == 141
    assert replaced == [1]
    assert capsys.readouterr().err == ""


def test_a_full_disk_in_a_thread_is_reported_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", front._report_thread_error)
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert capsys.readouterr().err == "warning: a background thread cannot write: No space left on device\n"
    front._report_thread_error(threading.ExceptHookArgs((KeyError, KeyError("a bug"), None, thread)))
    assert "KeyError: 'a bug'" in capsys.readouterr().err
