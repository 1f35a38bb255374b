"""``vatt compare``: ways to pretrain, at equal computing, by the same probes."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vatt.cli.commands import print_table
from vatt.cli.steps import Source, claim, find_source, label_by, make_corpus, run_command
from vatt.errors import InputError

CONFIGS = tuple(f"configs/demo_{name}.yaml" for name in ("contrastive", "vjepa", "masked", "autoregressive"))
UNTRAINED = "untrained"
LINEAR, NEAREST, ATTENTIVE = "linear", "knn", "attentive"
SCENES: tuple[str, ...] = ()  # options of vatt scenes
TRACKED = ("average Jaccard", "mean IoU", "J&F")
PROTOCOL = (
    "probes on the frozen video tower: training clips and test clips by their middle "
    "window, hyper-parameters by cross-validation among training clips, last feature; "
    "retrieval: a caption a clip, cosine; tracking: readouts on all tokens of the frozen tower, labels carried by them"
)


@dataclass(frozen=True)
class Way:
    """One way to pretrain, as it is built.

    Attributes:
        name: of its configuration's file.
        config: that file.
        gflops: operations of a clip in a training step, forwards and backwards.
        batch: clips of a step.
        tokens: of the video of a clip, before any is dropped or hidden.
        steps: as many as its configuration says.
        texts: whether it takes captions.
        weights: of its video tower.
        hash: of everything that is configured.
        tower: hash of the backbone's part of that.
    """

    name: str
    config: str
    gflops: float
    batch: int
    tokens: int
    steps: int
    texts: bool
    weights: int
    hash: str
    tower: str


def compare(
    configs: tuple[str, ...] = CONFIGS,
    output: str = "runs/compare",
    corpus: str = "runs/shapes",
    data: str | None = None,
    tflops: float | None = None,
    labels: tuple[str, ...] = ("shape", "motion"),
    shares: tuple[float, ...] = (0.05, 0.1, 0.5),
    equal: Literal["operations", "clips"] = "operations",
    scenes: str | None = "runs/scenes",
    seed: int = 0,
) -> int:
    """Pretrain in several ways with equal operations, on the demonstration corpus or data of yours, probe all alike.

    Each way trains for as many steps as the operations allow, with its own configuration's optimizer and batch. Probed
    are all layers by logistic regression and by nearest neighbours, the last one by attention and with parts of the
    labels; and so is a tower as most of the ways have it, untrained. A training whose probes do not beat that is told
    as a collapse. What is there is used again, if it was made by the same configuration.

    Args:
        configs: training configurations; the video towers should be equally large.
        output: folder of the runs, of table.json, table.md and of the picture.
        corpus: folder of the demonstration corpus, which is made if it is not there.
        data: configuration of other data to train on, as ``configs/data/grid_mouth.yaml``, in place of that.
        tflops: operations of each training, in 10^12; unless given, those of the first configuration's own steps.
        labels: what probes tell apart: attributes of the corpus (shape, motion, colour or speed), or manifests of
            yours with labels and splits (``.jsonl``).
        shares: of the labels, for label efficiency.
        equal: what all trainings have as much of: operations, or clips and so tokens of video.
        scenes: folder of scenes whose points and boxes are tracked, which are made if they are not there; null leaves
            them out. With other data they are left out too.
        seed: of the trainings, and of the probes.
    """
    from vatt.evaluation.report import write_report

    missing = [config for config in configs if not Path(config).is_file()]
    if missing:
        raise FileNotFoundError(f"no configuration at {missing[0]}; run this in the folder of the repository")
    if len({Path(config).stem for config in configs}) < len(configs) or not configs:
        raise InputError(f"configurations are one or more files of different names, not {', '.join(configs)}")
    folder, source = Path(output), find_source(corpus, data)
    ways = [_built(config, source, seed) for config in configs]
    budget = 1e12 * tflops if tflops is not None else 1e9 * ways[0].gflops * ways[0].batch * ways[0].steps
    clips = budget / (1e9 * ways[0].gflops)
    if data is None:
        make_corpus(Path(corpus))
    manifests = {_name(label): _labelled(label, source) for label in labels}
    found = {}
    usual = Counter(way.tower for way in ways).most_common(1)[0][0]
    random = next(way.config for way in ways if way.tower == usual)
    for way in [None, *ways]:
        name = UNTRAINED if way is None else way.name
        run = folder / name
        if way is None:
            about = _untrained(random, source, run, seed)
        else:
            steps = (clips if equal == "clips" else budget / (1e9 * way.gflops)) / way.batch
            about = _trained(way, source, run, round(steps), seed)
        found[name] = about | {"probes": _probes(run, manifests, shares, seed)}
        if scenes is not None and data is None:
            found[name]["tracking"] = _tracked(run, Path(scenes), seed)
        if way is not None and way.texts:
            found[name]["retrieval"] = _retrieved(run, source.manifest)
    for name, of in found.items():
        of["collapsed"] = name != UNTRAINED and _collapsed(of, found[UNTRAINED], tuple(manifests))
    circumstances = {"protocol": f"equal {equal} of training; {PROTOCOL}", "data": str(source.manifest), "seed": seed}
    circumstances |= {"configurations": list(configs)}
    each = f"{round(clips):,} clips" if equal == "clips" else f"{budget / 1e12:.1f} TFLOPs"
    about = f"{source.name}, {each} each, seed {seed}"
    page = write_report(folder / "table.json", "Ways to pretrain", {"about": about, "ways": found}, circumstances)
    _say(found, tuple(manifests), shares, about, page)
    run_command("plot", "compare", str(folder / "table.json"), "--output", str(folder / "compare"))
    print(f"table: {page}")
    return 0


def _labelled(label: str, source: Source) -> Path:
    """The manifest with a label."""
    if not label.endswith(".jsonl"):
        return label_by(source.manifest, label)
    if not Path(label).is_file():
        raise FileNotFoundError(f"no manifest at {label}")
    return Path(label)


def _name(label: str) -> str:
    return Path(label).stem if label.endswith(".jsonl") else label


def _built(config: str, source: Source, seed: int) -> Way:
    """The sizes of a configuration, and its operations, counted."""
    from vatt.cli.training import build_pretraining
    from vatt.evaluation.report import config_hash
    from vatt.objectives.flops import step_flops

    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    cli = build_pretraining(["--config", config, f"--seed_everything={seed}", *source.build_options()])
    model, format = cli.model, cli.datamodule.format
    gflops = step_flops(model.objective, model.backbone, format, "cpu") / 1e9
    tower = sum(parameter.numel() for parameter in model.backbone.tower("video").parameters())
    texts = "text" in model.backbone.modalities
    batch, tokens = cli.datamodule.batch_size, math.prod(model.backbone.tokenizers["video"].grid)
    says = cli.config.as_dict()
    hashes = config_hash(says), config_hash(says["model"]["backbone"])
    return Way(Path(config).stem, config, gflops, batch, tokens, cli.trainer.max_steps, texts, tower, *hashes)


def _trained(way: Way, source: Source, run: Path, steps: int, seed: int) -> dict[str, Any]:
    """Pretrain, unless that was done."""
    from vatt.evaluation.report import config_hash
    from vatt.training.history import history_of

    if steps < 1:
        raise InputError(f"these are too few operations for a step of {way.config}: give more --tflops")
    claim(run, config_hash({"config": way.hash, "steps": steps, "seed": seed}))
    weights = run / "model" / "training.json"
    fit = ["pretrain", "fit", "--config", way.config, "--run.folder", str(run), "--seed_everything", str(seed)]
    fit += [*source.options(way.texts), "--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0"]
    if (run / "checkpoints" / "last.ckpt").is_file():
        fit += ["--ckpt_path", "last"]
    run_command(*fit, makes=weights, source=source.manifest)
    history = history_of(run / "model")
    return {
        "config": way.config, "steps": steps, "clips": steps * way.batch, "tokens": steps * way.batch * way.tokens,
        "GFLOPs a clip": round(way.gflops, 4),
        "TFLOPs": round(steps * way.batch * way.gflops / 1e3, 2), "minutes": history["minutes"],
        "weights of the tower": way.weights,
    }  # fmt: skip


def _untrained(config: str, source: Source, run: Path, seed: int) -> dict[str, Any]:
    """A model with random weights."""
    from vatt.cli.training import build_pretraining
    from vatt.evaluation.report import config_hash

    cli = build_pretraining(["--config", config, f"--seed_everything={seed}", *source.build_options()])
    claim(run, config_hash({"config": cli.config.as_dict(), "seed": seed}))
    if not (run / "model" / "config.json").is_file():
        cli.model.export(cli.datamodule.format).save_pretrained(run / "model")
    return {"config": config, "steps": 0, "clips": 0, "tokens": 0, "TFLOPs": 0.0}


def _probes(run: Path, manifests: dict[str, Path], shares: tuple[float, ...], seed: int) -> dict[str, Any]:
    """Top-1 in per cent by label, probe, layer and share of the labels."""
    found: dict[str, Any] = {}
    for label, manifest in manifests.items():
        found[label] = {}
        for name, options in (
            ("layers", ["--kinds", f"[{LINEAR},{NEAREST}]", "--layers", "all"]),
            ("tokens", ["--kinds", f"[{ATTENTIVE}]", "--steps", "500"]),
            ("labels", ["--kinds", f"[{LINEAR}]", "--shares", f"[{','.join(map(str, shares))}]"]),
        ):
            report = run / f"probe_{label}_{name}.json"
            run_command(
                *("probe", str(manifest), "--model", str(run / "model"), "--windows", "1", "--seed", str(seed)),
                *(*options, "--output", str(report)),
                makes=report,
                source=run / "model" / "config.json",
            )
            told = json.loads(report.read_text(encoding="utf-8"))
            found[label] |= {key: of["top-1 (%)"] for key, of in told.items() if isinstance(of, dict) and "each" in of}
    return found


def _retrieved(run: Path, manifest: Path) -> dict[str, Any]:
    """Text to video among the test clips."""
    stored, report = run / "embeddings", run / "retrieval.json"
    run_command(
        *("embed", str(manifest), "--split", "test", "--model", str(run / "model")),
        *("--output", str(stored), "--overwrite", "true"),
        makes=stored / "embeddings.json",
        source=run / "model" / "training.json",
    )
    run_command("retrieve", str(stored), "--output", str(report), makes=report, source=stored / "embeddings.json")
    return json.loads(report.read_text(encoding="utf-8"))["text_to_video"]


def _tracked(run: Path, scenes: Path, seed: int) -> dict[str, float]:
    """Points and boxes of scenes by readouts, and labels carried on; of the frozen tower."""
    report, manifest = run / "tracking.json", scenes / "manifest.jsonl"
    run_command("scenes", str(scenes), *SCENES, makes=manifest)
    run_command(
        *("readout", str(manifest), "--model", str(run / "model"), "--tasks", "[points,boxes]", "--untrained", "false"),
        *("--seed", str(seed), "--output", str(report)),
        makes=report,
        source=run / "model" / "config.json",
    )
    return json.loads(report.read_text(encoding="utf-8"))["trained"]


def _collapsed(of: dict[str, Any], untrained: dict[str, Any], labels: tuple[str, ...]) -> bool:
    """Whether no probe finds more in it than in random weights."""
    pairs = [(of["probes"][label], untrained["probes"][label]) for label in labels]
    return not any(trained[_key(LINEAR)] > random[_key(LINEAR)] for trained, random in pairs)


def _key(kind: str, layer: str = "final", share: float = 1.0) -> str:
    return f"{kind}, layer {layer}, {100 * share:g}% of the labels"


def _say(found: dict[str, Any], labels: tuple[str, ...], shares: tuple[float, ...], about: str, page: Path) -> None:
    """Print a table of the ways and one of each label, and add them to the page."""
    names = {name: name + (" (collapsed)" if of["collapsed"] else "") for name, of in found.items()}
    rows = []
    for name, of in found.items():
        row = [names[name], of["steps"], of["clips"], f"{of['tokens'] / 1e6:.2f}", of["TFLOPs"]]
        row += [f"{of['retrieval']['R@1']:.1f}" if "retrieval" in of else "–"]
        rows.append([*row, *(f"{of['tracking'][key]:.3f}" if "tracking" in of else "–" for key in TRACKED)])
    columns = ["pretraining", "steps", "clips", "video tokens, M", "TFLOPs", "text → video R@1", *TRACKED]
    tables = {f"Ways to pretrain, {about}": (columns, rows)}
    for label in labels:
        rows = []
        for name, of in found.items():
            probes = of["probes"][label]
            sweep = {
                key.split(", ")[1]: top1 for key, top1 in probes.items() if key.startswith(LINEAR) and "100%" in key
            }
            best = max(sweep, key=sweep.__getitem__)
            row = [names[name], f"{probes[_key(LINEAR)]:.1f}", f"{sweep[best]:.1f} ({best})"]
            row += [f"{probes[_key(kind)]:.1f}" for kind in (NEAREST, ATTENTIVE)]
            rows.append([*row, *(f"{probes[_key(LINEAR, share=share)]:.1f}" for share in shares)])
        columns = ["pretraining", "linear", "best layer", "nearest", "attentive"]
        tables[f"{label}, top-1 in per cent"] = ([*columns, *(f"linear, {100 * s:g}%" for s in shares)], rows)
    text = page.read_text(encoding="utf-8")
    for title, (columns, rows) in tables.items():
        print_table(title, columns, rows)
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
        text += "\n" + "\n".join([title, "", *lines]) + "\n"
    page.write_text(text, encoding="utf-8")
