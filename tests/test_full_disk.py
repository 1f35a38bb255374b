"""Commands on a full disk: one sentence, exit status 2, and intact old files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("faiss")

PREPARE = """
import contextlib, hashlib, io, json, resource, signal, sys
from pathlib import Path
import numpy as np, torch
from tests.conftest import WORDS, numbered_frames, beeps, tiny_model
from vatt.cli.main import main
from vatt.media.encoding import write_media
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.evaluation.plots import import_pyplot, save
from vatt.models.codebooks import PatchCodes
from vatt.models.vatt import VATT
from vatt.retrieval.index import Index

root, limit = Path(sys.argv[1]), int(sys.argv[2])
clips, model = root / "clips", root / "model"
clips.mkdir(parents=True)
for name in "ab":
    write_media(clips / f"{name}.mp4", numbered_frames(20), 10, beeps(2.0, 16_000), 16_000)
words = {"a": "red", "b": "blue"}
rows = [{"path": f"clips/{name}.mp4", "text": f"a {word} ring moves left"} for name, word in words.items()]
(root / "clips.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
torch.manual_seed(0)
tiny_model().save_pretrained(model)
WordVocabulary(WORDS).save(model / "vocabulary")
torch.manual_seed(1)
other = tiny_model()


def run(argv):
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        status = main(list(map(str, argv)))
    return status, errors.getvalue().strip().splitlines()[-1:]


def save_model():
    other.save_pretrained(model)


def save_codes():
    codes = PatchCodes(8, 4)
    codes.centres.normal_()
    codes.save(root / "codes.safetensors")


def save_figure():
    figure, axes = import_pyplot().subplots()
    axes.plot([1, 2])
    save(figure, root / "figure")


def called(function):
    import vatt.cli.main as front

    front._run, kept = lambda word, rest: function() or 0, front._run
    try:
        return run(["index"])
    finally:
        front._run = kept


E, I, M = root / "embeddings", root / "index", ["--model", model]
commands = {
    "embed": ["embed", root / "clips.jsonl", *M, "--output", E, "--num_workers", 0],
    "index": ["index", E, "--output", I],
    "index again": ["index", E, "--output", I, "--kind", "hnsw"],
    "index add": ["index", E, "--output", I, "--add", "true"],
    "index remove": ["index", I, "--output", I, "--remove", "*b.mp4"],
    "sheet": ["search", I, "a red ring", "--sheet", root / "sheet.png"],
    "playlist": ["search", I, "a red ring", "--play", root / "list.m3u"],
    "words": ["vocabulary", root / "clips.jsonl", "--output", root / "words", "--kind", "words"],
    "pieces": ["vocabulary", root / "clips.jsonl", "--output", root / "pieces", "--size", 40],
    "report": ["retrieve", E, "--output", root / "report.json"],
    "scan": ["scan", root / "clips", "--output", root / "scan.csv", "--num_workers", 1],
    "scan of parquet": ["scan", root / "clips", "--output", root / "scan.parquet", "--num_workers", 1],
    "prepare": ["prepare", root / "clips", "--output", root / "shards", "--num_workers", 1],
    "synth": ["synth", root / "shapes", "--num_train", 1, "--num_test", 1, "--num_val", 0, "--num_workers", 1],
    "save_pretrained": save_model,
    "codes": save_codes,
    "figure": save_figure,
}


def work(name):
    command = commands[name]
    return called(command) if callable(command) else run(command)


def tree():
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
"""

LIMITED = (
    PREPARE
    + """
first = sys.argv[3] == "first"
for name in () if first else [name for name in commands if name not in ("index add", "save_pretrained")]:
    assert work(name)[0] in (0, 1), (name, work(name))
if first:
    for name in ("embed", "index"):
        work(name)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
for name in commands:
    before = tree()
    status, errors = work(name)
    after = tree()
    changed = sorted(key for key in before | after if before.get(key) != after.get(key))
    print(json.dumps([name, status, errors, changed]), file=sys.__stdout__)
index = Index.load(I)
same = VATT.from_pretrained(model).model_hash() == index.model
print(json.dumps(["end", len(index), [], [same]]), file=sys.__stdout__)
"""
)


def limited(folder: Path, limit: int, when: str) -> Iterator[tuple[str, int, list[str], list[str]]]:
    argv = [sys.executable, "-c", LIMITED, str(folder), str(limit), when]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    yield from map(json.loads, done.stdout.splitlines())


SMALL = {"words", "playlist", "report"}  # files of less than the larger limit
DONE = {"embed", "synth", "prepare"}  # commands that do not write existing outputs again


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "when"), [(40, "again"), (400, "first")])
def test_full_disk_is_reported_and_old_files_are_kept(tmp_path: Path, limit: int, when: str) -> None:
    """A limit of the file size replaces a full disk: the same system call fails."""
    *results, end = limited(tmp_path / "root", limit, when)
    assert len(results) == 17
    for name, status, errors, changed in results:
        if status in (0, 1):  # the files are small enough, or nothing is written
            assert name in (SMALL if limit > 40 else set()) | (DONE if when == "again" else {"embed"}), name
            continue
        assert status == 2, (name, status, errors)
        assert errors[0].startswith("vatt "), (name, errors)
        assert "File too large" in errors[0] or "no space is left" in errors[0], (name, errors)
        # Shards and clips are written atomically one by one; a scan resumes from its journal.
        assert not changed or name in ("prepare", "synth", "scan", "scan of parquet"), (name, changed)
        assert all(path.endswith(".part") for path in changed if path.startswith("scan"))
    assert end[0] == "end"
    assert end[3] == [True]  # the old model and its index


FULL = """
import sys
from pathlib import Path
import torch
from tests.conftest import tiny_model
from vatt.cli import main as front
from vatt.models.vatt import VATT
model, disk = VATT.from_pretrained(sys.argv[1]), Path(sys.argv[2])
model.save_pretrained(disk / "model")
torch.manual_seed(9)
other = tiny_model()
front._run = lambda word, rest: other.save_pretrained(disk / "model") or 0
print(front.main(["convert"]), VATT.from_pretrained(disk / "model").model_hash() == model.model_hash())
print(sorted(path.name for path in (disk / "model").iterdir()))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_old_model_is_kept_if_the_new_one_does_not_fit_on_the_disk(model_folder: Path, tmp_path: Path) -> None:
    disk, size = tmp_path / "disk", sum(path.stat().st_size for path in model_folder.glob("*.*"))
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(1.5 * size)}", "tmpfs", disk], check=False).returncode:
        pytest.skip("no disk can be mounted")
    try:
        argv = [sys.executable, "-c", FULL, str(model_folder), str(disk)]
        done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
        last = done.stderr.splitlines()[-1]
        assert last == f"vatt convert: error: cannot write {disk}/model/model.safetensors: No space left on device"
        assert done.stdout.splitlines() == [
            "2 True",
            "['README.md', 'config.json', 'model.safetensors', 'vocabulary']",
        ]
    finally:
        subprocess.run(["umount", disk], check=True)
