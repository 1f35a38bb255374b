"""Pictures of a run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.io import atomic_path

FORMATS = (".png", ".svg")
Curve = list[tuple[int, float]]
LOSSES = {
    "train/video_audio": "video–audio (NCE)",
    "train/video_text": "video–text (MIL-NCE)",
    "train/loss": "loss",
}
SCORES = {"val/top1": "top-1", "val/top5": "top-5", "val/mAP": "mAP", "val/AUC": "AUC"}


def read_logs(folder: str | Path) -> dict[str, Curve]:
    """The curves a run has logged, over its resumptions: (step, value) by name.

    From where a later version begins, resumed or anew, it alone counts.

    Raises:
        FileNotFoundError: the folder has no logs.
    """
    files = sorted(Path(folder).glob("logs/version_*/metrics.csv"), key=lambda file: int(file.parent.name[8:]))
    if not files:
        raise FileNotFoundError(f"no logs/version_*/metrics.csv in {folder}; is it the folder of a run?")
    curves: dict[str, dict[int, float]] = {}
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        first = min((int(row["step"]) + 1 for row in rows), default=0)
        if rows:
            curves = {name: {k: v for k, v in points.items() if k < first} for name, points in curves.items()}
        for row in rows:
            for name, value in row.items():
                if value and name not in ("step", "epoch"):
                    curves.setdefault(name, {})[int(row["step"]) + 1] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items() if points}


def plot_tokens(folder: str | Path, output: str | Path) -> list[Path]:
    """Loss by the number of the token, of a run that predicted token after token (Toto, figure 10).

    Args:
        folder: of the run.
        output: PNG or SVG file; without a suffix both are written.

    Raises:
        FileNotFoundError: the run kept no such losses.
    """
    source = Path(folder) / "loss_by_token.csv"
    if not source.is_file():
        raise FileNotFoundError(
            f"no {source.name} in {folder}: is it the folder of an autoregressive training that ended?"
        )
    with source.open(newline="", encoding="utf-8") as file:
        rows = [(int(row["token"]), float(row["loss"])) for row in csv.DictReader(file)]
    pyplot = import_pyplot()
    figure, axis = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    axis.plot(*zip(*rows, strict=True), linewidth=1)
    axis.set(title=f"Loss by token, {Path(folder).name}", xlabel="token", ylabel="loss")
    axis.grid(alpha=0.3)
    return save(figure, output)


def plot_curves(folder: str | Path, output: str | Path) -> list[Path]:
    """Losses, and what was measured on the validation clips, over the steps of a run.

    Args:
        folder: of the run, a pretraining or a fine-tuning.
        output: PNG or SVG file; without a suffix both are written.

    Returns:
        What was written.

    Raises:
        InputError: no loss was logged.
        ImportError: matplotlib is not installed.
    """
    pyplot = import_pyplot()
    curves = read_logs(folder)
    losses = {name: label for name, label in LOSSES.items() if name in curves}
    losses = losses or {name: name[6:] for name in curves if name.startswith("train/")}
    if not losses:
        raise InputError(f"{folder} has logged no loss, only {', '.join(sorted(curves)) or 'nothing'}")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, label in losses.items():
        if name != "train/loss" or len(losses) == 1:
            left.plot(*zip(*curves[name], strict=True), label=label)
    left.set(xlabel="step", ylabel="loss (nats)", title="Training loss", ylim=(0, None))
    gallery = None
    for direction, colour in (("text_to_video", "tab:orange"), ("audio_to_video", "tab:blue")):
        for key, style in (("R@1", "-"), ("R@5", "--"), ("R@10", ":")):
            points = curves.get(f"val/{direction}_{key}")
            if points:
                label = f"{direction.replace('_to_', ' → ')} {key}"
                right.plot(*zip(*points, strict=True), style, color=colour, label=label)
        if f"val/{direction}_gallery" in curves:
            gallery = int(curves[f"val/{direction}_gallery"][-1][1])
    for name, label in SCORES.items():
        if name in curves:
            right.plot(*zip(*curves[name], strict=True), marker=".", label=label)
    title = "Retrieval on validation clips" + (f" (of {gallery}, chance R@1 {100 / gallery:.1f} %)" if gallery else "")
    if gallery is None:
        title = "Validation clips"
    right.set(xlabel="step", ylabel="per cent", title=title, ylim=(0, 102))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False, fontsize=9)
    if not right.lines:  # nothing was held out
        figure.delaxes(right)
    figure.suptitle(str(folder), fontsize=10)
    return save(figure, output)


def save(figure: Any, output: str | Path) -> list[Path]:
    """Write a figure as PNG or SVG, by its suffix; without one of these as both."""
    output = Path(output)
    whole = output.suffix.lower() in FORMATS
    files = [output] if whole else [output.with_name(output.name + suffix) for suffix in FORMATS]
    for file in files:
        with atomic_path(file) as path:
            figure.savefig(path, dpi=120)
    import_pyplot().close(figure)
    return files


def import_pyplot() -> Any:
    """Matplotlib, drawing to files.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "vatt[plots]"') from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot
