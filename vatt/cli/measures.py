"""What ``vatt compare`` measures of a model: probes, retrieval, tracking, and whether it has collapsed."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from vatt.cli.steps import digest, embed_test, run_command

LINEAR, NEAREST, ATTENTIVE = "linear", "knn", "attentive"
SCENES: tuple[str, ...] = ()  # options of vatt scenes
TRACKING = ("--tasks", "[points,boxes]", "--untrained", "false")  # options of vatt readout
STEPS = 500  # of the attentive probe
ERRORS = 2.0  # standard errors of a difference, from which on it counts


def key(kind: str, layer: str = "final", share: float = 1.0) -> str:
    """What ``vatt probe`` calls a result."""
    return f"{kind}, layer {layer}, {100 * share:g}% of the labels"


def probed(run: Path, manifests: dict[str, Path], shares: tuple[float, ...], seed: int) -> dict[str, dict[str, Any]]:
    """By label, top-1 in per cent by probe, layer and share of the labels; and ``test clips``, how many."""
    found: dict[str, dict[str, Any]] = {}
    for label, manifest in manifests.items():
        found[label] = {}
        for options in (
            ("--kinds", f"[{LINEAR},{NEAREST}]", "--layers", "all"),
            ("--kinds", f"[{ATTENTIVE}]", "--steps", str(STEPS)),
            ("--kinds", f"[{LINEAR}]", "--shares", f"[{','.join(map(str, shares))}]"),
        ):
            told = _report(run, f"probe_{label}", manifest, "probe", *options, "--windows", "1", "--seed", str(seed))
            found[label] |= {
                name: of["top-1 (%)"] for name, of in told.items() if isinstance(of, dict) and "each" in of
            }
            found[label]["test clips"] = int(told["clips present"].split(" of ")[0])
    return found


def retrieved(run: Path, manifest: Path) -> dict[str, Any]:
    """Text to video among the test clips."""
    stored, report = embed_test(run, manifest), run / "retrieval.json"
    options = ("--protocol", "first-caption", "--output", str(report))
    run_command("retrieve", str(stored), *options, makes=report, source=stored / "embeddings.json")
    return json.loads(report.read_text(encoding="utf-8"))["text_to_video"]


def tracked(run: Path, scenes: Path, seed: int) -> dict[str, float]:
    """Points and boxes of scenes by readouts, and labels carried on; of the frozen tower."""
    manifest = scenes / "manifest.jsonl"
    run_command("scenes", str(scenes), *SCENES, makes=manifest)
    return _report(run, "tracking", manifest, "readout", *TRACKING, "--seed", str(seed))["trained"]


def collapsed(of: dict[str, dict[str, Any]], random: dict[str, dict[str, Any]]) -> bool:
    """Whether the linear probes find, of no label, more in a model than in random weights of its tower.

    More than two standard errors of the difference, as of two independent shares of the test clips.
    """
    for label, trained in of.items():
        shares = [x[key(LINEAR)] / 100 for x in (trained, random[label])]
        error = math.sqrt(sum(p * (1 - p) / trained["test clips"] for p in shares))
        if shares[0] - shares[1] > ERRORS * error:
            return False
    return True


def _report(run: Path, stem: str, manifest: Path, command: str, *options: str) -> dict[str, Any]:
    """What a command reports of a model; what it has reported of the same with the same options is taken again."""
    name = digest(manifest.read_bytes(), command, *options)
    report = run / f"{stem}.{name}.json"
    run_command(
        *(command, str(manifest), "--model", str(run / "model"), *options, "--output", str(report)),
        makes=report,
        source=run / "model" / "config.json",
    )
    return json.loads(report.read_text(encoding="utf-8"))
