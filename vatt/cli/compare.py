"""``vatt compare``: ways to pretrain, at equal computing, by the same probes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vatt.cli.commands import print_table
from vatt.cli.measures import ATTENTIVE, LINEAR, NEAREST, collapsed, key, probed, retrieved, tracked
from vatt.cli.ranges import Fraction, Positive, Seed
from vatt.cli.steps import Source, claim, digest, find_source, label_by, make_corpus, run_command, train
from vatt.errors import InputError
from vatt.io import atomic_write
from vatt.resources import find_config

Equal = Literal["operations", "clips", "tokens"]
CONFIGS = tuple(f"demo_{name}" for name in ("contrastive", "vjepa", "videomae", "autoregressive"))
UNTRAINED = "untrained"
TRACKED = ("average Jaccard", "mean IoU", "J&F")
PROTOCOL = (
    "probes on the frozen video tower: training clips and test clips by their middle window, hyper-parameters by "
    "cross-validation among training clips, last feature; captions of the synthetic corpus name what its probes ask "
    "for; retrieval: a caption a clip, cosine; tracking: readouts on all tokens of the frozen tower, labels carried by "
    "them"
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
        warmup: of them, while the rate rises.
        sees: what of the clips.
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
    warmup: int
    sees: str
    weights: int
    hash: str
    tower: str

    @property
    def texts(self) -> bool:
        """Whether it takes captions."""
        return "text" in self.sees


def compare(
    configs: tuple[str, ...] = CONFIGS,
    output: str = "runs/compare",
    corpus: str = "runs/shapes",
    data: str | None = None,
    tflops: Positive | None = None,
    labels: tuple[str, ...] = ("shape", "motion"),
    shares: tuple[Fraction, ...] = (0.05, 0.1, 0.5),
    equal: Equal = "operations",
    scenes: str | None = "runs/scenes",
    seed: Seed = 0,
) -> int:
    """Pretrain in several ways with equal operations, on the demonstration corpus or data of yours, probe all alike.

    Each way trains for as many steps as the operations allow, with its own configuration's optimizer and batch. Probed
    are all layers by logistic regression and by nearest neighbours, the last one by attention and with parts of the
    labels; and so is each kind of tower untrained. A training whose linear probes do not beat those of its tower
    untrained, by two standard errors, is told as a collapse, beside its loss. What is there is used again, if it was
    made by the same configuration of the same data.

    Args:
        configs: Training configurations: files or names of packaged ones. Their video encoders should have the same
            size.
        output: folder of the runs, of table.json, table.md and of the picture.
        corpus: folder of the demonstration corpus, which is made if it is not there.
        data: Configuration of other data to train on instead: a file or the name of a packaged one, such as
            ``data/grid_mouth``.
        tflops: operations of each training, in 10^12; unless given, those of the first configuration's own steps.
        labels: what probes tell apart: attributes of the corpus (shape, motion, colour or speed), or manifests of
            yours with labels and splits (``.jsonl``).
        shares: of the labels, for label efficiency.
        equal: what all trainings have as much of: operations, clips, or tokens of video. Only one of these can be
            equal, since a clip has fewer tokens and needs fewer operations in one way than in another.
        scenes: folder of scenes whose points and boxes are tracked, which are made if they are not there; null leaves
            them out. With other data they are left out too.
        seed: of the trainings, and of the probes.
    """
    from vatt.evaluation.report import write_report

    for config in configs:
        find_config(config)
    if len({Path(config).stem for config in configs}) < len(configs) or not configs:
        raise InputError(f"configurations are one or more files of different names, not {', '.join(configs)}")
    folder, source = Path(output), find_source(corpus, data)
    ways = [_built(config, source, seed) for config in configs]
    budget = 1e12 * tflops if tflops is not None else 1e9 * ways[0].gflops * ways[0].batch * ways[0].steps
    clips = budget / (1e9 * ways[0].gflops)  # of the first way
    steps = [_steps(way, ways[0], clips, equal) for way in ways]
    if data is None:
        make_corpus(Path(corpus))
    manifests = {_name(label): _labelled(label, source) for label in labels}
    tracks = None if scenes is None or data is not None else Path(scenes)
    random = {way.tower: way for way in reversed(ways)}  # the first of each tower
    found = {}
    for way in reversed(random.values()):
        run = folder / f"{UNTRAINED}_{way.name}"
        found[_untrained_name(way)] = _untrained(way, source, run, seed) | {
            "probes": probed(run, manifests, shares, seed),
            **({"tracking": tracked(run, tracks, seed)} if tracks else {}),
            "collapsed": False,
        }
    for way, count in zip(ways, steps, strict=True):
        run = folder / way.name
        of = _trained(way, source, run, count, seed) | {"probes": probed(run, manifests, shares, seed)}
        if tracks:
            of["tracking"] = tracked(run, tracks, seed)
        if way.texts:
            of["retrieval"] = retrieved(run, source.manifest)
        of["collapsed"] = collapsed(of["probes"], found[_untrained_name(random[way.tower])]["probes"])
        found[way.name] = of
    circumstances = {"protocol": f"equal {equal} of training; {PROTOCOL}", "data": str(source.manifest), "seed": seed}
    circumstances |= {"configurations": list(configs)}
    each = {
        "operations": f"{budget / 1e12:.1f} TFLOPs",
        "clips": f"{round(clips):,} clips",
        "tokens": f"{clips * ways[0].tokens / 1e6:.2f} million tokens",
    }[equal]
    about = f"{source.name}, {each} each, seed {seed}"
    title = "Ways to pretrain"
    page = write_report(folder / "table.json", title, {"about": about}, circumstances, off_page={"ways": found})
    _say(found, tuple(manifests), shares, about, page)
    run_command("plot", "compare", str(folder / "table.json"), "--output", str(folder / "compare"))
    print(f"table: {page}")
    return 0


def _steps(way: Way, first: Way, clips: float, equal: Equal) -> int:
    """Steps in which a way has as much as the first one has of so many clips.

    Raises:
        InputError: these are fewer than its warm-up.
    """
    of_a_clip = {"operations": way.gflops / first.gflops, "clips": 1.0, "tokens": way.tokens / first.tokens}[equal]
    steps = round(clips / of_a_clip / way.batch)
    if steps <= way.warmup:
        least = (way.warmup + 1) * way.batch * of_a_clip * first.gflops / 1e3
        raise InputError(
            f"{way.config} would have {steps} steps, and its warm-up alone has {way.warmup}: give --tflops "
            f"{least:.3g} or more"
        )
    return steps


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
    from vatt.cli.training import build_pretraining, clips_of_step
    from vatt.evaluation.report import config_hash
    from vatt.objectives.flops import step_flops

    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    cli = build_pretraining(["--config", config, f"--seed_everything={seed}", *source.build_options()])
    model, batch = cli.model, clips_of_step(cli)
    data = cli.datamodule
    gflops = step_flops(model.objective, model.backbone, data.format, data.batch_size * data.windows) / 1e9
    tower = sum(parameter.numel() for parameter in model.backbone.tower("video").parameters())
    sees = ", ".join(model.backbone.modalities)
    tokens = math.prod(model.backbone.tokenizers["video"].grid)
    says = cli.config.as_dict()
    hashes = config_hash(says), config_hash(says["model"]["backbone"])
    steps, warmup = cli.trainer.max_steps, cli.model.optimization.warmup_steps
    return Way(Path(config).stem, config, gflops, batch, tokens, steps, warmup, sees, tower, *hashes)


def _trained(way: Way, source: Source, run: Path, steps: int, seed: int) -> dict[str, Any]:
    """Pretrain, unless that was done."""
    from vatt.evaluation.plots import read_logs
    from vatt.evaluation.report import config_hash
    from vatt.training.history import history_of

    manifest = digest(source.manifest.read_bytes())
    claim(run, config_hash({"config": way.hash, "steps": steps, "seed": seed, "manifest": manifest}))
    options = ["--seed_everything", str(seed), *source.options(way.texts)]
    options += ["--trainer.max_steps", str(steps), "--trainer.limit_val_batches", "0", "--run.best_by", "null"]
    train(way.config, run, source.manifest, options)
    history, curves = history_of(run / "model"), read_logs(run)
    loss = [value for _, value in curves["train/loss"]]
    return {
        "config": way.config, "steps": steps, "clips": steps * way.batch, "tokens": steps * way.batch * way.tokens,
        "GFLOPs a clip": round(way.gflops, 4),
        "TFLOPs": round(steps * way.batch * way.gflops / 1e3, 2), "minutes": history["minutes"],
        "weights of the tower": way.weights, "sees": way.sees, "loss": [loss[0], loss[-1]],
        "health": {name: curve[-1][1] for name, curve in curves.items() if name.startswith("health/")},
    }  # fmt: skip


def _untrained(way: Way, source: Source, run: Path, seed: int) -> dict[str, Any]:
    """A model with random weights."""
    from vatt.cli.training import build_pretraining
    from vatt.evaluation.report import config_hash

    claim(run, config_hash({"config": way.hash, "seed": seed}))
    if not (run / "model" / "config.json").is_file():
        cli = build_pretraining(["--config", way.config, f"--seed_everything={seed}", *source.build_options()])
        cli.model.export(cli.datamodule.format).save_pretrained(run / "model")
    return {"config": way.config, "steps": 0, "clips": 0, "tokens": 0, "TFLOPs": 0.0}


def _untrained_name(way: Way) -> str:
    return f"{UNTRAINED}, as {way.name}"


def _say(found: dict[str, Any], labels: tuple[str, ...], shares: tuple[float, ...], about: str, page: Path) -> None:
    """Print a table of the ways and one of each label, and add them to the page."""
    names = {name: name + (" (collapsed)" if of["collapsed"] else "") for name, of in found.items()}
    rows = []
    for name, of in found.items():
        row = [names[name], of.get("sees", "–"), of["steps"], of["clips"], f"{of['tokens'] / 1e6:.2f}", of["TFLOPs"]]
        row += [" → ".join(f"{x:.3g}" for x in of["loss"]) if "loss" in of else "–"]
        row += [f"{of['retrieval']['R@1']:.1f}" if "retrieval" in of else "–"]
        rows.append([*row, *(f"{of['tracking'][name]:.3f}" if "tracking" in of else "–" for name in TRACKED)])
    columns = [
        "pretraining",
        "sees",
        "steps",
        "clips",
        "video tokens, M",
        "TFLOPs",
        "loss",
        "text → video R@1",
        *TRACKED,
    ]
    tables = {f"Ways to pretrain, {about}": (columns, rows)}
    for label in labels:
        rows = []
        for name, of in found.items():
            probes = of["probes"][label]
            sweep = {
                of_layer.split(", ")[1]: top1
                for of_layer, top1 in probes.items()
                if of_layer.startswith(LINEAR) and "100%" in of_layer
            }
            best = max(sweep, key=sweep.__getitem__)
            row = [names[name], f"{probes[key(LINEAR)]:.1f}", f"{sweep[best]:.1f} ({best})"]
            row += [f"{probes[key(kind)]:.1f}" for kind in (NEAREST, ATTENTIVE)]
            rows.append([*row, *(f"{probes[key(LINEAR, share=share)]:.1f}" for share in shares)])
        columns = ["pretraining", "linear", "best layer, by the test", "nearest", "attentive"]
        tables[f"{label}, top-1 in per cent"] = ([*columns, *(f"linear, {100 * s:g}%" for s in shares)], rows)
    text = page.read_text(encoding="utf-8")
    for title, (columns, rows) in tables.items():
        print_table(title, columns, rows)
        lines = ["| " + " | ".join(map(str, row)) + " |" for row in (columns, ["---"] * len(columns), *rows)]
        text += "\n" + "\n".join([title, "", *lines]) + "\n"
    with atomic_write(page, "w") as file:
        file.write(text)
