"""How long `vatt --help` takes, beside a bare Python and beside importing what a training needs.

Usage:
    python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

ROUNDS = 15
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "vatt --help": ["-m", "vatt", "--help"],
    "import torch": ["-c", "import torch"],
    "import lightning": ["-c", "import lightning"],
}


def main() -> None:
    """Print medians in seconds, and ratios against the bare interpreter; the commands take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(ROUNDS + 1):
        for name, arguments in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first turn fills the file cache
                seconds[name].append(time.perf_counter() - began)
    bare = statistics.median(seconds["python -c pass"])
    print(f"{'':18} median s   of python -c pass   ({ROUNDS} rounds)")
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:18} {median:8.3f}   {median / bare:8.1f} x")


if __name__ == "__main__":
    main()
