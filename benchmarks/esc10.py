"""ESC-10 (Piczak 2015) by its five folds: waveforms fine-tuned from scratch and from a pretrained model, and probes.

Usage:
    python benchmarks/esc10.py esc10.csv clips --pretrained runs/grid/model --output runs/esc10

The configuration is configs/finetune_esc10.yaml; the folds are those of the dataset. With a pretrained model, its sound
tower is fine-tuned in the same way, and beside it a tower of the same kind from scratch, on sounds at the model's rate.
What is there is used again.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FOLDS = (1, 2, 3, 4, 5)
FOREST = 72.7  # per cent, of the dataset paper's random forest; a guess is right in 10


def vatt(*words: object) -> None:
    print("$ vatt", *words, flush=True)
    subprocess.run([sys.executable, "-m", "vatt", *map(str, words)], cwd=ROOT, check=True)


def fold_of(given: list[object], run: Path) -> dict[str, object]:
    """Train and test one fold, unless that was done."""
    given = ["--config", "configs/finetune_esc10.yaml", *given, "--run.folder", run]
    if not (run / "model" / "training.json").is_file():
        resume = ["--ckpt_path", "last"] if (run / "checkpoints" / "last.ckpt").is_file() else []
        vatt("finetune", "fit", *given, *resume)
    if not (run / "test.json").is_file():
        vatt("finetune", "test", *given)
    return json.loads((run / "test.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="esc10.csv, or esc50.csv, of which the recordings of ESC-10 are taken")
    parser.add_argument("clips", type=Path, help="folder with the recordings")
    parser.add_argument("--pretrained", type=Path, help="model whose sound tower is fine-tuned and probed as well")
    parser.add_argument("--output", type=Path, default=Path("runs/esc10"))
    # Further options are those of vatt finetune, such as --trainer.max_steps=10.
    given, more = parser.parse_known_args()
    output, manifest = given.output.resolve(), given.output.resolve() / "clips.jsonl"
    if not manifest.is_file():
        script = [sys.executable, ROOT / "data/esc50/prepare.py", given.table, given.clips, "--output", manifest]
        if "esc10" in given.table.read_text(encoding="utf-8").splitlines()[0].split(","):
            script.append("--esc10")  # of ESC-50
        subprocess.run([str(word) for word in script], check=True)
    ways: dict[str, list[object]] = {"from scratch": []}
    if given.pretrained is not None:
        model = given.pretrained.resolve()
        config = json.loads((model / "config.json").read_text(encoding="utf-8"))
        rate = config["format"]["sample_rate"]
        (output / "backbone.yaml").write_text(yaml.safe_dump(config["backbone"]), encoding="utf-8")
        same = ["--data.format.sample_rate", rate]
        ways[f"pretrained, {rate} Hz"] = [*same, "--model.pretrained", model, "--model.backbone", "null"]
        ways[f"from scratch, same tower, {rate} Hz"] = [*same, "--model.backbone", output / "backbone.yaml"]
    cache = ["--data.manifest", manifest, "--data.cache", output / "cache"]
    rows = []
    for way, options in ways.items():
        found = [
            fold_of([*cache, *options, "--data.fold", fold, *more], output / re.sub(r"\W+", "_", way) / str(fold))
            for fold in FOLDS
        ]
        top1 = [report["top-1 (%)"] for report in found]
        minutes = [report["fine-tuning"]["minutes"] for report in found]
        rows.append((f"fine-tuned {way}", top1, f"{statistics.fmean(minutes):.1f}"))
    if given.pretrained is not None:
        probes = output / "probes.json"
        if not probes.is_file():
            vatt(
                "probe", manifest, "--model", model, "--modality", "audio", "--folds", f"[{','.join(map(str, FOLDS))}]",
                "--kinds", "[linear,attentive]", "--output", probes,
            )  # fmt: skip
        said = json.loads(probes.read_text(encoding="utf-8"))
        rows += [
            (f"{name.partition(',')[0]} probe on the pretrained features", value["each"], "")
            for name, value in said.items()
            if isinstance(value, dict) and "each" in value
        ]
    print("\n| ESC-10, top-1 in per cent | mean | of each fold | minutes a fold |\n|---|---|---|---|")
    for name, top1, minutes in rows:
        each = " / ".join(f"{value:.1f}" for value in top1)
        print(f"| {name} | {statistics.fmean(top1):.1f} | {each} | {minutes} |")
    print(f"| random forest (Piczak 2015) | {FOREST} | | |\n| guessing | 10.0 | | |")


if __name__ == "__main__":
    main()
