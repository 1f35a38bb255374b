from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from pathlib import Path

import av
import pytest

from tests.media.test_inspection import every, remux, spoil, write_video
from vatt.datasets.manifest import read_manifest
from vatt.errors import InputError
from vatt.preparation.scan.file import FileFacts, scan_file
from vatt.preparation.scan.report import ScanSummary, read_report
from vatt.preparation.scan.scanning import Cleaned, scan


def troubled_probe(path: str, num_clips: int, time_limit_s: float) -> FileFacts:
    """`scan_file`, but some names bring down the process that reads them."""
    match Path(path).stem:
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exits":
            os._exit(3)
        case "hangs":
            time.sleep(600)
        case "fails":
            raise ValueError("a bug\nin two lines")
    return scan_file(path, num_clips, time_limit_s)


def marking_probe(path: str, num_clips: int, time_limit_s: float) -> FileFacts:
    """Tells that it was asked."""
    return FileFacts(path, container="looked at again")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, video_file: Path, silent_file: Path, sound_file: Path) -> Path:
    folder = tmp_path_factory.mktemp("scan") / "media"
    (folder / "more").mkdir(parents=True)
    shutil.copy(video_file, folder / "a.mp4")
    shutil.copy(video_file, folder / "copy.mp4")
    remux(video_file, folder / "more" / "remuxed.mkv")
    shutil.copy(silent_file, folder / "mute.mp4")
    shutil.copy(sound_file, folder / "sound.m4a")
    write_video(folder / "late.mp4", every(40), sound_starts_s=1.0)
    write_video(folder / "uneven.mp4", every(40)[:20] + [800 + 120 * i for i in range(30)])
    write_video(folder / "whole.mp4", every(40), noise=True)
    spoil(folder / "whole.mp4", folder / "spoilt.mp4", range(21, 29))
    for name in ("crashes", "exits", "fails", "hangs"):
        shutil.copy(silent_file, folder / f"{name}.mp4")
    (folder / "page.mp4").write_text("<html></html>")
    (folder / "notes.txt").write_text("no media")
    return folder


@pytest.fixture(scope="module")
def scanned(folder: Path) -> tuple[ScanSummary, Cleaned, Path]:
    report = folder.parent / "report.csv"
    summary, cleaned = scan(folder, report, num_workers=2, time_limit_s=4.0, probe=troubled_probe)
    return summary, cleaned, report


def test_every_file_is_a_row_in_the_order_of_the_manifest(folder: Path, scanned: tuple) -> None:
    rows = list(read_report(scanned[2]))
    assert [row.path for row in rows] == [clip.path for clip in read_manifest(folder)]
    assert {Path(row.path).name: row.status for row in rows if row.status != "ok"} == {
        "crashes.mp4": "crashed",
        "exits.mp4": "crashed",
        "fails.mp4": "unreadable",
        "hangs.mp4": "timeout",
        "page.mp4": "no media",
        "spoilt.mp4": "damaged",
    }


def test_reasons_are_in_words(scanned: tuple) -> None:
    reasons = {Path(facts.path).stem: facts.reason for facts in scanned[0].unusable}
    assert reasons["crashes"] == "the process that read it was killed by SIGSEGV"
    assert reasons["exits"] == "the process that read it ended with status 3"
    assert reasons["hangs"] == "not done within 4 s"
    assert reasons["fails"] == "ValueError: a bug"
    assert "decoded" in reasons["spoilt"]


def test_duplicates_by_content_name_the_first(folder: Path, scanned: tuple) -> None:
    rows = {Path(row.path).name: row for row in read_report(scanned[2])}
    twice = {name: row.duplicate_of for name, row in rows.items() if row.duplicate_of}
    assert twice == {"copy.mp4": str(folder / "a.mp4"), "remuxed.mkv": str(folder / "a.mp4")}
    assert rows["copy.mp4"].content_hash == rows["a.mp4"].content_hash != rows["whole.mp4"].content_hash


def test_counts_are_those_of_the_rows(scanned: tuple) -> None:
    summary, _, report = scanned
    with report.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert summary.files == len(rows) == 14
    assert summary.statuses == {"ok": 8, "crashed": 2, "unreadable": 1, "timeout": 1, "no media": 1, "damaged": 1}
    assert summary.duration_s == pytest.approx(sum(float(row["duration_s"] or 0) for row in rows))
    assert summary.kinds == {"picture and sound": 4, "picture only": 4, "sound only": 1}
    assert summary.codecs == ({"h264": 8}, {"aac": 5})
    assert (summary.silent, summary.variable_fps, summary.duplicates) == (0, 1, 2)
    assert summary.offset == sum(abs(float(row["start_difference_s"] or 0)) > 0.025 for row in rows) >= 1


def test_the_cleaned_manifest_holds_what_can_be_used_once(folder: Path, scanned: tuple) -> None:
    cleaned = scanned[1]
    assert cleaned.path == folder.parent / "report_clean.jsonl"
    assert [clip.id for clip in read_manifest(cleaned.path)] == [
        "a.mp4",
        "late.mp4",
        "mute.mp4",
        "sound.m4a",
        "uneven.mp4",
        "whole.mp4",
    ]
    assert cleaned.left_out["duplicate"] == 2
    assert cleaned.left_out.total() == 8


def test_rows_of_a_manifest(folder: Path, tmp_path: Path) -> None:
    video, copy, sound, spoilt = (str(folder / name) for name in ("a.mp4", "copy.mp4", "sound.m4a", "spoilt.mp4"))
    rows = [
        {"path": video, "id": "first", "end_s": 1.5, "text": "a red ring", "split": "train", "x_source": "web"},
        {"path": video, "id": "second", "start_s": 1.5, "words": [{"word": "ring", "start": 1.6, "end": 1.9}]},
        {"path": video, "id": "beyond", "start_s": 3.5, "end_s": 4.0},
        {"path": video, "id": "longer", "start_s": 2.0, "end_s": 9.0, "labels": ["ring"]},
        {"path": copy, "id": "copy", "split": "test"},
        {"path": video, "id": "other sound", "audio_path": sound},
        {"path": copy, "id": "copy with it", "audio_path": sound},
        {"path": spoilt, "id": "spoilt"},
        {"path": str(folder / "nowhere.mp4"), "id": "nowhere"},
        {"path": video, "id": "no sound", "audio_path": str(folder / "nowhere.wav")},
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = tmp_path / "out" / "usable.jsonl"
    report = tmp_path / "out" / "report.parquet"
    summary, cleaned = scan(manifest, report, manifest=target, num_workers=1, keep_damaged=True)

    assert [Path(row.path).name for row in read_report(report)] == [
        "a.mp4",
        "copy.mp4",
        "sound.m4a",
        "spoilt.mp4",
        "nowhere.mp4",
        "nowhere.wav",
    ]
    assert summary.statuses == {"ok": 3, "damaged": 1, "missing": 2}
    before = {clip.id: clip for clip in read_manifest(manifest, check_files=False)}
    after = read_manifest(target)
    assert [clip.id for clip in after] == ["first", "second", "longer", "other sound", "spoilt"]
    assert after == [before[clip.id] for clip in after]  # texts, words, labels, splits and columns of one's own
    assert cleaned.left_out == {"outside": 1, "duplicate": 2, "missing": 2}
    assert (cleaned.past_end, cleaned.mixed_splits) == (1, 1)
    (said,) = cleaned.outside
    assert said.startswith("beyond: begins at 3.5 s")


def test_a_name_that_is_not_utf8_is_a_row(tmp_path: Path, silent_file: Path) -> None:
    try:
        shutil.copy(silent_file, os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    except OSError:
        pytest.skip("this file system takes only names in UTF-8")
    shutil.copy(silent_file, tmp_path / "good.mp4")
    summary, cleaned = scan(tmp_path, tmp_path / "report.csv", num_workers=1, probe=marking_probe)
    assert summary.statuses == {"ok": 1, "unreadable": 1}
    assert "caf\\xe9.mp4" in summary.unusable[0].path
    assert [clip.id for clip in read_manifest(cleaned.path)] == ["good.mp4"]


def test_half_a_character_in_a_path_is_a_row(tmp_path: Path, silent_file: Path) -> None:
    shutil.copy(silent_file, tmp_path / "good.mp4")
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"path": "b\\ud800.mp4"}\n{"path": "good.mp4"}\n')
    summary, cleaned = scan(manifest, tmp_path / "report.csv", num_workers=1, probe=marking_probe)
    assert summary.statuses == {"ok": 1, "unreadable": 1}
    assert "b\\ud800.mp4" in summary.unusable[0].path
    assert [clip.id for clip in read_manifest(cleaned.path)] == ["good.mp4"]


def test_a_manifest_behind_a_url(tmp_path: Path, silent_file: Path) -> None:
    shutil.copy(silent_file, tmp_path / "a.mp4")
    (tmp_path / "clips.csv").write_text("path\na.mp4\n")
    summary, _ = scan(f"file://{tmp_path}/clips.csv", tmp_path / "report.csv", num_workers=1)
    assert summary.statuses == {"ok": 1}
    with pytest.raises(InputError, match="local"):
        scan(tmp_path, "memory://bucket/report.csv")


def test_two_spellings_are_one_file(folder: Path, tmp_path: Path) -> None:
    spelled = str(folder / "more" / ".." / "a.mp4")
    rows = [
        {"path": str(folder / "a.mp4"), "id": "first", "end_s": 1.5},
        {"path": spelled, "id": "second", "start_s": 1.5},
        {"path": str(folder / "copy.mp4"), "id": "copy"},
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary, cleaned = scan(manifest, tmp_path / "report.csv", num_workers=1)
    assert summary.duplicates == 1
    assert [clip.id for clip in cleaned.clips] == ["first", "second"]
    assert cleaned.left_out == {"duplicate": 1}


def test_the_same_packets_at_another_speed_are_no_duplicate(tmp_path: Path) -> None:
    fast = write_video(tmp_path / "fast.mp4", every(40))
    with av.open(str(fast)) as old, av.open(str(tmp_path / "slow.mp4"), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux():
            if packet.dts is not None:
                packet.pts, packet.dts, packet.duration = 10 * packet.pts, 10 * packet.dts, 10 * packet.duration
                packet.stream = stream
                new.mux(packet)
    remux(fast, tmp_path / "the_same.mkv")
    summary, cleaned = scan(tmp_path, tmp_path / "report.csv", num_workers=1)
    assert [clip.id for clip in cleaned.clips] == ["fast.mp4", "slow.mp4"]
    assert summary.duplicates == 1


def test_what_cannot_be_written_is_found_first(tmp_path: Path, silent_file: Path) -> None:
    (tmp_path / "a file").touch()
    for options in ({"manifest": tmp_path / "a file" / "clean.jsonl"}, {"output": tmp_path / "a file" / "report.csv"}):
        with pytest.raises(InputError, match="cannot be written"):
            scan(silent_file, **({"output": tmp_path / "report.csv"} | options), probe=marking_probe)
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]


def test_a_manifest_of_another_scan_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "page.mp4").write_text("<html></html>")
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"path": "a.mp4"}\n')
    _, cleaned = scan(tmp_path / "page.mp4", tmp_path / "report.csv", mine, num_workers=1)
    assert (cleaned.path, cleaned.stale) == (None, mine)
    assert mine.read_text() == '{"path": "a.mp4"}\n'


def test_only_the_first_unusable_files_are_held(tmp_path: Path) -> None:
    summary = ScanSummary()
    for number in range(50):
        summary.add(FileFacts(str(number), status="missing"))
    assert [facts.path for facts in summary.unusable] == [str(number) for number in range(20)]
    assert summary.statuses == {"missing": 50}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"output": "report.txt"}, r"\.csv or \.parquet"),
        ({"manifest": "clean.csv"}, r"\.jsonl"),
        ({"output": "clips.csv"}, "write somewhere else"),
        ({"num_workers": 0}, "num_workers"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
        ({"num_clips": 0}, "num_clips"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, options: dict, said: str) -> None:
    (tmp_path / "clips.csv").write_text("path\na.mp4\n")
    options = {key: str(tmp_path / value) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(InputError, match=said):
        scan(tmp_path / "clips.csv", **({"output": tmp_path / "report.csv"} | options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips.csv"]
