"""``vatt finetune``: LightningCLI over the fine-tuning module and clips with classes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_warn

from vatt.cli.commands import print_table
from vatt.cli.training import VattCLI, quiet, run_cli
from vatt.cli.training_options import TrainingParser
from vatt.datasets.labelled import LabelledDataModule
from vatt.datasets.labels import Classes
from vatt.errors import InputError
from vatt.evaluation.report import config_hash, write_per_class, write_report
from vatt.models.directories import saved_format
from vatt.models.vatt import Classifier
from vatt.training.finetune import FinetuneModule
from vatt.training.history import changes, check_classifier, check_clips, check_shapes, history_of, in_words

METRICS = {"top1": "top-1 (%)", "top5": "top-5 (%)", "mAP": "mAP (%)", "AUC": "AUC (%)", "dprime": "d′"}
UNKNOWN = "not known"
FIXED = ("fps", "sample_rate", "crop_box")  # lengths and sizes are changed on purpose, these mostly by mistake
COUNTS = {
    "classes": "classes measured",
    "without_positives": "without positives",
    "without_negatives": "without negatives",
    "dprime_infinite": "d′ infinite",
    "dprime_minus_infinite": "d′ minus infinite",
}


class FinetuneCLI(VattCLI):
    """What the classifier has to know of the data and of the pretrained model is told it here."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """There is something to test: clips with known classes."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in ("fit", "validate", "test")}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.link_arguments("model.modality", "data.modality")
        parser.link_arguments("model.multi_label", "data.multi_label")
        parser.link_arguments("model.pretrained", "data.base", compute_fn=_format_of)
        parser.link_arguments("data.classes", "model.classes", compute_fn=_names, apply_on="instantiate")
        parser.link_arguments("data.format", "model.format", apply_on="instantiate")
        parser.set_defaults({"run.folder": "runs/finetune", "run.best_by": None})

    def before_fit(self) -> None:
        run, pretrained = self._get(self.config_init, "run"), self.model.pretrained
        if run.best_by is not None and not self.datamodule.parts[""][1]:
            raise InputError(f"run.best_by is {run.best_by}, and there is nothing to validate on: {self._no_val()}")
        if not self.datamodule.parts[""][1] and not self.datamodule.test_clips:
            rank_zero_warn(
                "there are no validation clips and no test clips, so the accuracy of the classifier will not be "
                f"known: give rows the split {self.datamodule.val_split!r} or {self.datamodule.test_split!r}, or set "
                "data.val_fraction"
            )
        if run.best_by is not None and self.datamodule.validates_on_test:
            rank_zero_warn(
                f"the best checkpoint is selected by {run.best_by} on the test clips, so that results of the test are "
                "too good: set another data.val_split, or run.best_by to null"
            )
        if pretrained is not None:
            now, own = self.datamodule.format.to_dict(), saved_format(pretrained).to_dict()
            kept = [change for change in changes(own, now, self.model.modality) if change.split()[0] in FIXED]
            if kept:
                print(f"{pretrained} was trained on clips of another kind: {', '.join(kept)}")
        self.model.configuration = config_hash(self.config["fit"].as_dict())

    def next_command(self, model: Path) -> str | None:
        if not self.datamodule.test_clips:
            return None
        return f"vatt finetune test --config {self.run_folder / 'config.yaml'}"

    def before_validate(self) -> None:
        if not self.datamodule.parts[""][1]:
            raise InputError(f"there is nothing to validate on: {self._no_val()}")
        self._take_trained()

    def before_test(self) -> None:
        self._take_trained()

    def after_test(self) -> None:
        """Print what was found, and keep it in the folder of the run."""
        report(self, self._get(self.config_init, "run").folder)

    def evaluated_weights(self, checkpoint: str | None) -> str:
        return self.tested

    def _no_val(self) -> str:
        data = self.datamodule
        return f"no row of {data.manifest} has split {data.val_split!r}; set data.val_split or data.val_fraction"

    def _take_trained(self) -> None:
        """What is tested: a checkpoint, else the model that ``fit`` has made, else the pretrained classifier."""
        folder, model = self.run_folder, self.model
        checkpoint = self._evaluated(self._get(self.config_init, "ckpt_path"))
        self.tested = str(checkpoint or model.pretrained)
        if checkpoint:
            return
        if (folder / "model").is_dir():
            self.tested = str(folder / "model")
            trained = Classifier.from_pretrained(self.tested)
            facts = {"classes": trained.classes, "modality": trained.modality, "multi_label": trained.head.multi_label}
            check_classifier(facts, model.kind, self.tested)
            check_shapes(trained.state_dict(), model.model, self.tested)
            model.model.load_state_dict(trained.state_dict())
        elif model.has_new_head:
            raise InputError(
                f"there is no trained classifier for {len(self.datamodule.classes)} classes such as "
                f"{self.datamodule.classes.names[0]!r}: fit has left none in {folder}; give --ckpt_path, or a "
                "fine-tuned model for these classes, in this order, as --model.pretrained"
            )
        model.origin = (history_of(self.tested) or {}).get("finetuning", {})
        if model.origin:
            check_clips(model.origin["data"], self.datamodule.origin, self.tested)


def _format_of(pretrained: str | None) -> dict[str, Any] | None:
    return None if pretrained is None else saved_format(pretrained).to_dict()


def _names(classes: Classes) -> list[str]:
    return classes.names


def finetune(argv: list[str]) -> int:
    """Run ``fit``, ``validate`` or ``test`` as LightningCLI does.

    Returns:
        1 if clips of the test could not be read, 0 otherwise.
    """
    cli = run_cli(FinetuneCLI, FinetuneModule, LabelledDataModule, argv, prog="vatt finetune")
    return 1 if cli.model.missing and cli.subcommand == "test" else 0


def build_finetuning(argv: list[str]) -> FinetuneCLI:
    """Build everything that a configuration describes, without running it."""
    quiet()
    return FinetuneCLI(
        FinetuneModule,
        LabelledDataModule,
        args=argv,
        run=False,
        seed_everything_default=0,
        parser_class=TrainingParser,
    )


def report(cli: FinetuneCLI, folder: str | Path) -> None:
    """Write ``test.json``, ``test.md`` and ``per_class.csv`` of the last test."""
    model, data, found = cli.model, cli.datamodule, dict(cli.model.found)
    missing, per_class, origin = model.missing, found.pop("per_class", None), cli.model.origin
    if not cli.trainer.is_global_zero:
        return
    if per_class is None:
        raise InputError(f"none of the {len(data.test_clips)} test clips could be read")
    metrics = {label: found[name] for name, label in METRICS.items() if name in found}
    counts = {label: found[name] for name, label in COUNTS.items() if name in found}
    chance = {"mAP (%)": found["prevalence"], "AUC (%)": 50.0} if "prevalence" in found else found["chance"]
    history = dict(history_of(cli.tested) or {})
    history.pop("finetuning", None)
    about = {
        "protocol": f"{data.modality}, {data.views.temporal} x {data.views.spatial} views a clip, logits averaged; "
        f"{data.format.num_frames} frames at {data.format.fps:g} fps, {data.format.size} pixels"
        if data.modality == "video"
        else f"{data.modality}, {data.views.temporal} windows a clip, logits averaged; "
        f"{data.format.audio_window_s:g} s at {data.format.sample_rate} Hz",
        "data": data.manifest,
        "part": f"fold {data.fold}" if data.fold is not None else f"split {data.test_split}",
        "clips present": f"{found['clips']} of {len(data.test_clips)}",
        "not found when the manifest was made": _not_found(data.manifest),
        **counts,
        "chance": chance,
        "clips with fewer views": len(model.incomplete),
        "tested": cli.tested + (f", step {origin['step']}" if "step" in origin else ""),
        "trained on": in_words(origin["data"]) if origin else UNKNOWN,
        "classes": len(data.classes),
        "pretrained": (origin["pretrained"] or "nothing") if origin else UNKNOWN,
        "seed": origin.get("seed", UNKNOWN),
        "configuration": origin.get("configuration") or UNKNOWN,
        "format changed since training": ", ".join(_changes(cli)) or "no",
        "fine-tuning": history or UNKNOWN,
        "pretraining": origin.get("pretraining") or UNKNOWN,
    }
    if missing:
        about["missing"] = ", ".join(missing)
    page = write_report(Path(folder) / "test.json", f"Classification of {data.modality}", metrics, about)
    if Path(cli.tested) == Path(folder) / "model":
        model.model.write_card(cli.tested)
    write_per_class(Path(folder) / "per_class.csv", data.classes.names, per_class)
    print_table(
        f"Test: {found['clips']} of {len(data.test_clips)} clips, {len(data.classes)} classes",
        (*metrics, "chance (%)", *counts),
        [(*(f"{value:.2f}" for value in metrics.values()), f"{next(iter(chance.values())):.2f}", *counts.values())],
    )
    for name in missing[:10]:
        print(f"not read: {name}")
    if len(missing) > 10:
        print(f"and {len(missing) - 10} more, all in {page}")
    print(f"tested: {about['tested']}    trained on: {about['trained on']}")
    print(f"report: {page}    by class: {page.with_name('per_class.csv')}")


def _not_found(manifest: str) -> str:
    """What the script that made a manifest could not find of its benchmark, in all splits."""
    listed = Path(manifest).with_suffix(".missing.csv")
    if not listed.is_file():
        return UNKNOWN
    with listed.open(newline="", encoding="utf-8", errors="replace") as file:
        return f"{sum(1 for _ in csv.reader(file)) - 1} clips of all splits, in {listed.name}"


def _changes(cli: FinetuneCLI) -> list[str]:
    before = cli.model.origin.get("format")
    return [] if before is None else changes(before, cli.datamodule.format.to_dict(), cli.model.modality)
