"""vatt codes, as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vatt.cli.main import main
from vatt.media.encoding import write_media
from vatt.models.codebooks import PatchCodes


def test_codes_of_own_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of four colours are made of four patches."""
    colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [230, 230, 230]], np.uint8)
    rng, rows = np.random.default_rng(0), []
    for i in range(4):
        which = rng.integers(4, size=(4, 2, 2))
        frames = colours[which].repeat(32, axis=1).repeat(32, axis=2)
        write_media(tmp_path / f"{i}.mp4", frames, 1, crf=0)
        rows.append({"path": f"{i}.mp4", "id": str(i), "split": "train"})
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    rows.append({"path": "bad.mp4", "id": "bad", "split": "train"})
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    output = tmp_path / "codes.safetensors"
    given = ["codes", str(tmp_path / "clips.jsonl"), "--output", str(output), "--size", "64", "--stride", "32"]
    assert main([*given, "--codes", "12", "--num_workers", "0"]) == 1
    printed = capsys.readouterr().out
    assert "unreadable: " in printed
    assert "12 patches of 32 x 32, from 16 pictures" in printed
    codes = PatchCodes(pretrained=str(output))
    means = codes.centres.view(12, -1, 3).mean(dim=1)
    wanted = colours / 127.5 - 1
    for colour in wanted:
        assert np.abs(means.numpy() - colour).max(axis=1).min() < 0.1
    (tmp_path / "clips.jsonl").write_text("\n".join(json.dumps({"path": row["path"]}) for row in rows))
    assert main([*given, "--codes", "12", "--num_workers", "0"]) == 1  # without splits: all clips
    assert "from 16 pictures" in capsys.readouterr().out
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for wrong, message in (
        (["--stride", "24"], "fill pictures of 64"),
        (["--split", "val"], "no row has split 'val'"),
        (["--codes", "4000"], "too few for 4000 codes"),
    ):
        assert main([*given, "--num_workers", "0", *wrong]) == 2
        assert message in capsys.readouterr().err
