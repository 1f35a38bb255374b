"""The scripts below data/ turn published annotations into manifests that can be read."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT
from vatt.datasets.manifest import read_manifest

ALIGNMENT = "0 23750 sil\n23750 29500 bin\n29500 34000 blue\n34000 36000 sp\n36000 74500 now\n"
HELD_OUT = [("bbaf2n", "train"), ("lwwz9a", "train"), ("bbaf3s", "test")]  # by a hash: the same at every time


def test_grid(tmp_path: Path, silent_file: Path) -> None:
    videos, alignments, output = tmp_path / "video", tmp_path / "align", tmp_path / "clips.jsonl"
    videos.mkdir()
    alignments.mkdir()
    for name in ("bbaf2n", "bbaf3s", "lwwz9a", "without"):
        shutil.copy(silent_file, videos / f"{name}.mp4")
    for name in ("bbaf2n", "bbaf3s", "lwwz9a"):
        (alignments / f"{name}.align").write_text(ALIGNMENT)
    script = [sys.executable, str(ROOT / "data/grid/prepare.py"), str(videos), str(alignments), "--output", str(output)]
    done = subprocess.run([*script, "--test_fraction", "0.5"], capture_output=True, text=True, check=True)
    assert "Videos left out, without an alignment: 1 (first: without.mp4)." in done.stdout
    assert "3 rows (train 2, test 1)" in done.stdout
    clips = read_manifest(output)
    assert [(clip.id, clip.split) for clip in clips] == HELD_OUT
    assert clips[0].texts[0].text == "bin blue now"
    words = [(word.text, word.start_s, word.end_s) for word in clips[0].words]
    assert words == [("bin", 0.95, 1.18), ("blue", 1.18, 1.36), ("now", 1.44, 2.98)]

    failed = subprocess.run(
        [*script, "--output", str(tmp_path / "grid.txt")], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, "the manifest is JSONL; call it grid.jsonl" in failed.stderr) == (2, True)

    (alignments / "bbaf2n.align").write_text("0 wrong\n")
    failed = subprocess.run(script, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert failed.stderr == f"error: {alignments}/bbaf2n.align, line 1: '0 wrong' is not 'begin end word'\n"


def test_words_of_sentences_become_labels(tmp_path: Path, video_file: Path) -> None:
    words = [{"word": "bin", "start": 0.95, "end": 1.18}, {"word": "blue", "start": 1.2, "end": 1.4}]
    early = {"word": "bin", "start": 0.0, "end": 0.1}  # words are sorted by time
    rows = [
        {"path": str(video_file), "id": "a", "words": words, "text": "bin blue", "split": "train"},
        {"path": str(video_file), "id": "b", "end_s": 2, "words": words[:1]},
        {"path": str(video_file), "id": "c", "end_s": 1, "words": [{"word": "red", "start": 0.1, "end": 0.3}, early]},
    ]
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    script = [sys.executable, str(ROOT / "data/grid_words/prepare.py"), str(tmp_path / "clips.jsonl")]
    options = ["--output", str(tmp_path / "out.jsonl"), "--seconds", "0.8"]
    done = subprocess.run([*script, "--word", "2", *options], capture_output=True, text=True, check=True)
    assert "2 rows (blue 1, red 1)" in done.stdout
    assert "Rows without a word 2 with times: 1 (first: b)." in done.stdout
    found = [(c.id, c.labels, c.start_s, c.end_s, c.split, c.words) for c in read_manifest(tmp_path / "out.jsonl")]
    assert found == [("a", ("blue",), 0.9, 1.7, "train", ()), ("c", ("red",), 0.0, 0.8, None, ())]
    failed = subprocess.run([*script, "--word", "3", *options], capture_output=True, text=True, check=False)
    assert (failed.returncode, "no row has a word 3" in failed.stderr) == (2, True)
