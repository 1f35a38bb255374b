from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vatt.errors import DirectoryInUse
from vatt.locks import DirectoryLock

HOLD = """
import sys
from vatt.locks import DirectoryLock
lock = DirectoryLock(sys.argv[1]).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def test_lock_is_exclusive_and_released_when_its_process_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DirectoryInUse, match=r"another process is writing to .*run: wait"), DirectoryLock(folder):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with DirectoryLock(folder):
        pass
