from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import read_number
from vatt.cli.main import main
from vatt.datasets.manifest import read_manifest
from vatt.media.decoding import open_media


@pytest.fixture
def media(tmp_path: Path, video_file: Path, silent_file: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(video_file, folder / "a.mp4")
    shutil.copy(silent_file, folder / "b.mp4")
    return folder


def test_a_folder_becomes_shards(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "shards"
    argv = ["prepare", str(media), "--output", str(output), "--short_side", "24", "--fps", "5", "--num_workers", "1"]
    assert main(argv) == 0
    printed = capsys.readouterr().out
    size = (output / "00000.tar").stat().st_size
    before = sum(path.stat().st_size for path in media.iterdir())
    assert f"shards: {output} (1, 1 of them new; {before / 1e9:.3g} GB before, {size / 1e9:.3g} GB after)" in printed
    assert "clips: 2, 0.00 hours" in printed
    assert f"manifest: {output / 'manifest.jsonl'} (2 of 2 rows, 0 left out)" in printed
    first, _ = read_manifest(output / "manifest.jsonl")
    with open_media(first.path) as clip:
        assert (clip.info.width, clip.info.height) == (32, 24)
        shown = clip.all_frames()
        assert [read_number(frame) for frame in shown.frames] == list(range(0, 75, 5))

    (output / "00000.tar").write_bytes((output / "00000.tar").read_bytes()[:-1])
    assert main([*argv, "--verify", "true"]) == 0
    assert "changed or gone, made again: 00000.tar" in capsys.readouterr().out
    assert main(argv) == 0
    assert "(1, 0 of them new;" in capsys.readouterr().out


def test_the_status_tells_whether_something_was_left_out(
    media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(25):
        (media / f"broken{number:02d}.mp4").write_bytes(b"this is no video" * 100)
    output = tmp_path / "shards"
    argv = ["prepare", str(media), "--output", str(output), "--num_workers", "1"]
    assert main(argv) == 1
    printed = capsys.readouterr().out
    broken = media / "broken00.mp4"
    assert f"unreadable: broken00.mp4: {broken}: plain text" in printed
    assert "broken20.mp4" not in printed
    assert f"… and 5 more: {output / 'errors.csv'}" in printed
    assert "(2 of 27 rows, 25 left out)" in printed

    assert main([*argv, "--crf", "30"]) == 2
    assert "crf was 23, is 30" in capsys.readouterr().err
    assert main([*argv, "--crf", "30", "--overwrite", "true"]) == 1
    assert main(["prepare", str(tmp_path / "gone"), "--output", str(output)]) == 2
    assert "there is no manifest and no folder" in capsys.readouterr().err


def test_options_that_begin_anew_or_only_check(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (media / "a.mp4").read_bytes()
    (media / "a.mp4").write_bytes(b"not yet there" * 100)
    os.utime(media / "a.mp4", (1, 1))
    output = tmp_path / "shards"
    argv = ["prepare", str(media), "--output", str(output), "--num_workers", "1"]
    assert main(argv) == 1
    assert main([*argv, "--retry", "true"]) == 1
    assert "1 of them new" in capsys.readouterr().out
    (media / "a.mp4").write_bytes(whole)
    assert main([*argv, "--overwrite", "true"]) == 0
    shutil.rmtree(media)
    capsys.readouterr()
    assert main(["prepare", str(output), "--check", "true"]) == 0
    assert capsys.readouterr().out == f"shards: {output} (1, 1 of them whole)\n"
    (output / "00000.tar").unlink()
    assert main([*argv, "--check", "true"]) == 1
    assert capsys.readouterr().out == f"00000.tar: gone\nshards: {output} (1, 0 of them whole)\n"
    assert main(["prepare", str(output)]) == 2
    assert "--output is missing" in capsys.readouterr().err


def test_shards_are_a_source_like_any_other(media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"path": "videos/a.mp4", "text": "a red ring"}, {"path": "videos/b.mp4", "text": "a blue bar"}]
    source = tmp_path / "clips.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["prepare", str(source), "--output", str(tmp_path / "shards"), "--num_workers", "1"]) == 0
    manifest = str(tmp_path / "shards" / "manifest.jsonl")
    assert main(["vocabulary", manifest, "--output", str(tmp_path / "words"), "--kind", "words"]) == 0
    report = tmp_path / "report.csv"
    assert main(["scan", manifest, "--output", str(report), "--num_workers", "1"]) == 0
    assert [clip.texts[0].text for clip in read_manifest(manifest)] == ["a red ring", "a blue bar"]
    capsys.readouterr()


def test_the_help_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    assert "costs at most so many frames more" in " ".join(capsys.readouterr().out.split())
