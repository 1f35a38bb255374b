"""``vatt droptoken``: quality and operations at several rates of DropToken, on the demonstration corpus."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from vatt.cli.commands import print_table
from vatt.cli.ranges import Count, DropRate
from vatt.cli.steps import claim, label_by, make_corpus, run_command, train_and_embed
from vatt.errors import InputError
from vatt.io import atomic_write
from vatt.resources import find_config

SHOWN = {"text_to_video": ("R@1", "R@5"), "audio_to_video": ("R@1", "R@5")}
PROTOCOL = "retrieval: manifest, a caption a clip, cosine; shape: logistic regression on the frozen video feature"
RATES = (0.75, 0.5, 0.25, 0.0)  # of the paper's table 5


def droptoken(
    config: str = "demo",
    output: str = "runs/droptoken",
    corpus: str = "runs/shapes",
    rates: tuple[DropRate, ...] = RATES,
    max_steps: Count | None = None,
) -> int:
    """Pretrain once for each rate of DropToken, measure, count operations, and draw both (VATT, table 5).

    Every rate is that of video and audio alike. Measured are retrieval among the test clips, and how well logistic
    regression on the frozen feature tells their shapes. What is there is used again, if it was made by the same
    configuration.

    Args:
        config: Training configuration: a file or the name of a packaged one.
        output: folder of the runs, of table.json, table.md and of the picture.
        corpus: folder of the corpus, which is made if it is not there.
        rates: shares of the tokens that are dropped.
        max_steps: of each training; what the configuration says unless given.
    """
    from vatt.evaluation.protocols import evaluate
    from vatt.evaluation.report import write_report
    from vatt.training.history import history_of

    find_config(config)
    if not rates or len(set(rates)) < len(rates) or not all(0 <= rate < 1 for rate in rates):
        raise InputError(f"rates are different shares in [0, 1), not {', '.join(map(str, rates))}")
    folder, data = Path(output), Path(corpus)
    make_corpus(data)
    shapes = label_by(data / "manifest.jsonl", "shape")
    points, rows = [], []
    for rate in rates:
        run = folder / f"drop_{100 * rate:g}"
        options = [f"--model.objective.init_args.drop_{modality}={rate}" for modality in ("video", "audio")]
        options += [] if max_steps is None else [f"--trainer.max_steps={max_steps}"]
        gflops, asked = _built(config, options, rate)
        claim(run, asked)
        train_and_embed(config, run, data, options)
        probed = run / "probe.json"
        run_command(
            *("probe", str(shapes), "--model", str(run / "model"), "--windows", "1", "--output", str(probed)),
            makes=probed,
            source=run / "model" / "training.json",
        )
        found, training = evaluate(run / "embeddings", "first-caption"), history_of(run / "model")
        told = json.loads(probed.read_text(encoding="utf-8"))["linear, layer final, 100% of the labels"]
        metrics = {
            f"{direction.replace('_to_', ' → ')} {key}": found[direction][key]
            for direction, keys in SHOWN.items()
            for key in keys
        } | {"shape, linear probe": told["top-1 (%)"]}
        how = {key: training[key] for key in ("steps", "seed", "minutes")}
        points.append({"drop": rate, "gflops": gflops, **how, "metrics": metrics})
        share = f"{100 * rate:g}%"
        rows.append((share, f"{gflops:.3f}", training["minutes"], *(f"{x:.1f}" for x in metrics.values())))
    clips, steps, seed = found["clips_present"], training["steps"], training["seed"]
    about = f"synthetic shapes, {clips} test clips of unseen combinations, {steps} steps, seed {seed}"
    columns = ("dropped", "GFLOPs", "minutes", *points[0]["metrics"])
    print_table(f"DropToken, {about}", columns, rows)
    circumstances = {"config": config, "seed": training["seed"], "protocol": PROTOCOL}
    page = write_report(folder / "table.json", "DropToken", {"about": about, "rates": points}, circumstances)
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
    text = page.read_text(encoding="utf-8") + "\n" + "\n".join(lines) + "\n"
    with atomic_write(page, "w") as file:
        file.write(text)
    run_command("plot", "droptoken", str(folder / "table.json"), "--output", str(folder / "droptoken"))
    print(f"table: {page}")
    return 0


def _built(config: str, options: list[str], rate: float) -> tuple[float, str]:
    """GFLOPs of one clip's way through all towers in training, its texts once each; and the configuration's hash."""
    import torch

    from vatt.cli.training import build_pretraining
    from vatt.evaluation.report import config_hash
    from vatt.models.flops import count_flops

    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    with torch.device("meta"):
        cli = build_pretraining(["--config", config, *options, "--data.manifest=none", "--data.vocabulary=null"])
    backbone, format = cli.model.backbone, cli.datamodule.format
    counted = count_flops(backbone, format, {"video": rate, "audio": rate})
    gflops = sum((format.num_texts if found.modality == "text" else 1) * found.all for found in counted) / 1e9
    return gflops, config_hash(cli.config.as_dict())
