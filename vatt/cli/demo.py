"""``vatt demo``: the whole street on a corpus made on the spot, as a list of the commands a user would type."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from vatt.cli.steps import make_corpus, run_command, train_and_embed
from vatt.io import atomic_write
from vatt.resources import find_config

QUERIES = 3


def demo(config: str = "demo", output: str = "runs/demo", corpus: str = "runs/shapes") -> int:
    """Make a corpus, pretrain on it, embed its held-out clips, index them, and search. What is there is used again.

    Args:
        config: Training configuration: a file or the name of a packaged one.
        output: folder of the run.
        corpus: folder of the corpus.
    """
    began = time.perf_counter()
    find_config(config)
    run, data = Path(output), Path(corpus)
    model, embeddings, index, pictures = run / "model", run / "embeddings", run / "index", run / "pictures"
    report, weights = run / "report.json", model / "training.json"

    make_corpus(data)
    train_and_embed(config, run, data)
    stored = embeddings / "embeddings.json"
    run_command("index", str(embeddings), "--output", str(index), makes=index / "index.json", source=stored)
    for number, (caption, name) in enumerate(_questions(data / "manifest.jsonl"), start=1):
        sheet = pictures / f"query_{number}.png"
        run_command("search", str(index), caption, "--k", "6", "--sheet", str(sheet), "--right_id", name)
    run_command("plot", "curves", str(run), "--output", str(pictures / "curves.png"))
    run_command("retrieve", str(embeddings), "--protocol", "first-caption", "--output", str(report))
    _complete(report, weights, config, time.perf_counter() - began)
    _describe(model)
    print(
        f"\nmodel       {model}/        vatt.VATT.from_pretrained('{model}')\n"
        f'embeddings  {embeddings}/\nindex       {index}/        vatt search {index} "a red ring moves left"\n'
        f"pictures    {pictures}/\nreport      {report}\ncurves      tensorboard --logdir {run}"
    )
    return 0


def _questions(manifest: Path) -> Sequence[tuple[str, str]]:
    """Captions of held-out clips, spread over the split, with the clips they belong to."""
    from vatt.datasets.manifest import read_manifest

    clips = read_manifest(manifest, split="test", check_files=False)
    chosen = [clips[len(clips) * i // QUERIES] for i in range(QUERIES)]
    return [(clip.texts[0].text, clip.id) for clip in chosen]


def _complete(report: Path, training: Path, config: str, seconds: float) -> None:
    """Add to the retrieval report how the model came about."""
    found = json.loads(report.read_text(encoding="utf-8"))
    how = json.loads(training.read_text(encoding="utf-8"))
    found["data"] = "synthetic shapes, test split: combinations of attributes that are not in the training"
    found |= {key: how[key] for key in ("steps", "minutes", "weights", "train_clips", "seed", "machine", "torch")}
    found |= {"config": config, "minutes_of_this_call": round(seconds / 60, 2)}
    with atomic_write(report, "w") as file:
        json.dump(found, file, indent=1)


def _describe(model: Path) -> None:
    """Have the model's page tell what was found."""
    from vatt.models.vatt import VATT

    VATT.from_pretrained(model).write_card(model)
