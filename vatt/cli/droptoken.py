"""``vatt droptoken``: quality and operations at several rates of DropToken, on the demonstration corpus."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vatt.cli.commands import print_table
from vatt.cli.demo import make_corpus, run_command, train_and_embed
from vatt.errors import InputError

SHOWN = {"text_to_video": ("R@1", "R@5"), "audio_to_video": ("R@1", "R@5")}
RATES = (0.75, 0.5, 0.25, 0.0)  # of the paper's table 5


def droptoken(
    config: str = "configs/demo.yaml",
    output: str = "runs/droptoken",
    corpus: str = "runs/shapes",
    rates: tuple[float, ...] = RATES,
    max_steps: int | None = None,
) -> int:
    """Pretrain once for each rate of DropToken, measure retrieval, count operations, and draw both (VATT, table 5).

    Every rate is that of video and audio alike. What is there is used again.

    Args:
        config: training configuration.
        output: folder of the runs, of table.json, table.md and of the picture.
        corpus: folder of the corpus, which is made if it is not there.
        rates: shares of the tokens that are dropped.
        max_steps: of each training; what the configuration says unless given.
    """
    from vatt.evaluation.protocols import evaluate
    from vatt.evaluation.report import write_report

    if not Path(config).is_file():
        raise FileNotFoundError(f"no configuration at {config}; run this in the folder of the repository")
    if not rates or len(set(rates)) < len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise InputError(f"rates are different shares in [0, 1), not {', '.join(map(str, rates))}")
    folder, data = Path(output), Path(corpus)
    make_corpus(data)
    points, rows = [], []
    for rate in rates:
        run = folder / f"drop_{round(100 * rate)}"
        options = [f"--model.objective.init_args.drop_{modality}={rate}" for modality in ("video", "audio")]
        options += [] if max_steps is None else [f"--trainer.max_steps={max_steps}"]
        train_and_embed(config, run, data, options)
        found = evaluate(run / "embeddings")
        training = json.loads((run / "model" / "training.json").read_text(encoding="utf-8"))
        metrics = {
            f"{direction.replace('_to_', ' → ')} {key}": found[direction][key]
            for direction, keys in SHOWN.items()
            for key in keys
        }
        gflops = _gflops(config, rate)
        points.append({"drop": rate, "gflops": gflops, "minutes": training["minutes"], "metrics": metrics})
        rows.append((f"{rate:.0%}", f"{gflops:.3f}", training["minutes"], *(f"{x:.1f}" for x in metrics.values())))
    about = f"synthetic shapes, {found['clips_present']} test clips of unseen combinations, {training['steps']} steps"
    columns = ("dropped", "GFLOPs", "minutes", *points[0]["metrics"])
    print_table(f"DropToken, {about}", columns, rows)
    circumstances = {"config": config, "seed": training["seed"], "protocol": "manifest: a caption a clip, cosine"}
    page = write_report(folder / "table.json", "DropToken", {"about": about, "rates": points}, circumstances)
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    page.write_text(page.read_text(encoding="utf-8") + "\n" + "\n".join(lines) + "\n", encoding="utf-8")
    run_command("plot", "droptoken", str(folder / "table.json"), "--output", str(folder / "droptoken"))
    print(f"table: {page}")
    return 0


def _gflops(config: str, rate: float) -> float:
    """Of one clip's way through all towers in training, its texts once each."""
    import torch

    from vatt.cli.training import build_pretraining
    from vatt.models.flops import count_flops

    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    with torch.device("meta"):
        cli = build_pretraining(["--config", config, "--data.manifest=none", "--data.vocabulary=null"])
    backbone, format = cli.model.backbone, cli.datamodule.format
    counted = count_flops(backbone, format, {"video": rate, "audio": rate})
    return sum((format.num_texts if found.modality == "text" else 1) * found.all for found in counted) / 1e9
