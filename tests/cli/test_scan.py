from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from vatt.cli.main import main
from vatt.preparation.scan.report import read_report


def test_a_folder_is_scanned(tmp_path: Path, video_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    media = tmp_path / "videos"
    media.mkdir()
    shutil.copy(video_file, media / "a.mp4")
    shutil.copy(video_file, media / "b.mp4")
    (media / "broken.mp4").write_bytes(b"this is no video" * 100)
    (media / "notes.txt").write_text("no media")
    report, clean = tmp_path / "report.csv", tmp_path / "clean.jsonl"
    argv = ["scan", str(media), "--output", str(report), "--manifest", str(clean), "--num_workers", "1"]

    assert main(argv) == 1
    printed = capsys.readouterr().out
    table = {
        cells[1].strip(): cells[2].strip() for cells in (line.split("│") for line in printed.splitlines()) if cells[2:]
    }
    assert table["ok"] == "2"
    assert table["no media"] == "1"
    assert table["picture and sound"] == "2"
    assert table["video h264"] == "2"
    assert table["duplicates by content"] == "1"
    assert f"no media: {media / 'broken.mp4'}: plain text" in printed
    assert "not media by their names: 1 .txt" in printed
    assert f"report: {report} (3 files)" in printed
    assert "(1 of 3 rows; left out: 1 duplicate, 1 no media)" in printed
    assert len(list(read_report(report))) == 3
    assert json.loads(clean.read_text())["id"] == "a.mp4"

    (media / "broken.mp4").unlink()
    assert main([*argv, "--resume", "true"]) == 0
    assert "(1 of 2 rows; left out: 1 duplicate)" in capsys.readouterr().out


def test_what_is_not_named_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path\n" + "".join(f"{number:02}.mp4\n" for number in range(25)))
    assert main(["scan", str(manifest), "--output", str(tmp_path / "report.csv"), "--num_workers", "1"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("there is no such file") == 20
    assert "… and 5 more: 5 missing" in printed
    assert "manifest: none (0 of 25 rows; left out: 25 missing)" in printed
    assert not (tmp_path / "report_clean.jsonl").exists()


def test_links_and_an_earlier_manifest_are_spoken_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "broken.mp4").symlink_to("nowhere.mp4")
    clean = tmp_path / "report_clean.jsonl"
    clean.write_text("{}")
    argv = ["scan", str(tmp_path / "media"), "--output", str(tmp_path / "report.csv"), "--num_workers", "1"]
    assert main(argv) == 1
    printed = capsys.readouterr().out
    assert "missing: " in printed
    assert f"not this scan's, and left as it was: {clean}" in printed


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["scan", "NOWHERE", "--output", "OUT.csv"], "there is no manifest"),
        (["scan", "VIDEO", "--output", "OUT.txt"], ".csv or .parquet"),
        (["scan", "VIDEO", "--output", "OUT.csv", "--num_workers", "0"], "num_workers"),
    ],
)
def test_wrong_input_is_status_2(
    argv: list[str], said: str, tmp_path: Path, video_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"NOWHERE": str(tmp_path / "nowhere"), "VIDEO": str(video_file)}
    words = [places.get(word, word.replace("OUT", str(tmp_path / "report"))) for word in argv]
    assert main(words) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
