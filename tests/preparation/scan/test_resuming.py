from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vatt.errors import InputError
from vatt.media.sources.files import state
from vatt.preparation.scan.file import FileFacts, scan_file
from vatt.preparation.scan.report import ReportWriter, ScanSummary, known_rows, read_report
from vatt.preparation.scan.scanning import scan


def marking_probe(path: str, num_clips: int, time_limit_s: float) -> FileFacts:
    """Tells that it was asked."""
    return FileFacts(path, "ok", "", *state(path), container="looked at again")


@pytest.fixture
def media(tmp_path: Path, silent_file: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    for number in range(4):
        shutil.copy(silent_file, folder / f"{number}.mp4")
    return folder


def anew(report: Path) -> list[str]:
    """Names of the files that `marking_probe` was asked for."""
    return [Path(row.path).name for row in read_report(report) if row.container == "looked at again"]


def interrupt(count: int, *arguments: Path, **options: bool) -> None:
    """A scan that is interrupted after so many rows."""

    def stop(summary: ScanSummary, facts: FileFacts) -> None:
        summary.statuses[facts.status] += 1
        if summary.files == count:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScanSummary, "add", stop)
        with pytest.raises(KeyboardInterrupt):
            scan(*arguments, num_workers=1, **options)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_rows_come_back_from_a_report(tmp_path: Path, suffix: str) -> None:
    rows = [
        FileFacts('a, "b".mp4', fps=29.97, constant_fps=False, silent=True, width=64, modified_ns=2**60 + 1),
        FileFacts("ö.mp4", status="damaged", reason="x; y", num_clips=3),
    ]
    report = tmp_path / f"report{suffix}"
    with ReportWriter(report) as writer:
        for row in rows:
            writer.add(row)
        assert list(known_rows(report)) == rows
        assert not report.exists()
    assert list(read_report(report)) == list(known_rows(report)) == rows
    assert [path.name for path in tmp_path.iterdir()] == [report.name]


def test_a_resumed_scan_looks_only_at_what_changed(media: Path) -> None:
    report = media.parent / "report.csv"
    with ReportWriter(report) as writer:
        for number in range(4):
            facts = scan_file(str(media / f"{number}.mp4"), 3, 60.0)
            facts.status = "timeout" if number == 2 else facts.status
            writer.add(facts)
    before = next(read_report(report))
    os.utime(media / "1.mp4", ns=(1, 1))
    scan(media, report, num_workers=1, resume=True, probe=marking_probe)
    assert anew(report) == ["1.mp4", "2.mp4"]
    assert next(read_report(report)) == before

    report.write_text("path,label\na.mp4,dog\n")
    with pytest.raises(InputError, match="not a report"):
        scan(media, report, resume=True)


def test_other_clips_are_looked_at(media: Path) -> None:
    report = media.parent / "report.csv"
    scan(media, report, num_workers=1)
    scan(media, report, num_workers=1, resume=True, probe=marking_probe)
    assert anew(report) == []
    scan(media, report, num_workers=1, resume=True, num_clips=7, probe=marking_probe)
    assert anew(report) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_nothing_is_lost_by_an_interruption(media: Path, suffix: str) -> None:
    report = media.parent / f"report{suffix}"
    interrupt(2, media, report)
    assert not report.exists()
    scan(media, report, num_workers=1, resume=True, probe=marking_probe)
    assert anew(report) == ["2.mp4", "3.mp4"]

    whole = report.read_bytes()
    os.utime(media / "0.mp4", ns=(1, 1))
    os.utime(media / "2.mp4")
    for _ in range(2):  # a resumed scan is interrupted, and again
        interrupt(1, media, report, resume=True)
        assert report.read_bytes() == whole
    rows = {Path(row.path).name: row.container for row in known_rows(report)}
    assert rows["0.mp4"] == rows["1.mp4"] != rows["2.mp4"] == rows["3.mp4"] == "looked at again"
    scan(media, report, num_workers=1, resume=True)
    assert anew(report) == ["3.mp4"]
    assert [path.name for path in sorted(media.parent.iterdir())] == ["media", report.name, "report_clean.jsonl"]


def test_a_row_that_was_cut_off_is_looked_at_again(media: Path) -> None:
    report = media.parent / "report.csv"
    journal = media.parent / "report.csv.part"
    for cut in (5, -5):  # within the names of the columns, and within the last row
        interrupt(3, media, report)
        journal.write_bytes(journal.read_bytes()[:cut])
        scan(media, report, num_workers=1, resume=True, probe=marking_probe)
        assert anew(report) == ["0.mp4", "1.mp4", "2.mp4", "3.mp4"][0 if cut > 0 else 2 :]
        report.unlink()
    journal.write_text("[1, 2]\n")
    with pytest.raises(InputError, match="not a report"):
        scan(media, report, num_workers=1, resume=True)
    journal.unlink()
    report.write_text(",".join(FileFacts.__slots__) + "\na.mp4,ok\n")
    with pytest.raises(InputError, match="line 2 is not a row"):
        scan(media, report, num_workers=1, resume=True)


SLOW = """
import sys, time
from vatt.preparation.scan.file import FileFacts
from vatt.preparation.scan.scanning import scan

def slow(path, num_clips, time_limit_s):
    time.sleep(0.0 if path.endswith("0.mp4") else 600.0)
    return FileFacts(path)

if __name__ == "__main__":
    scan(sys.argv[1], sys.argv[2], num_workers=1, probe=slow)
"""


def test_a_scan_that_is_killed_leaves_its_rows(media: Path) -> None:
    report, journal = media.parent / "report.parquet", media.parent / "report.parquet.part"
    (media.parent / "slow.py").write_text(SLOW)
    process = subprocess.Popen([sys.executable, media.parent / "slow.py", media, report], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert [Path(row.path).name for row in known_rows(report)] == ["0.mp4"]
