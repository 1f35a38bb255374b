"""What commands of several steps have in common: each step is a command, and what is there is used again."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from vatt.errors import InputError, VattError
from vatt.io import atomic_write, read_lines
from vatt.resources import find_config

CORPUS: tuple[str, ...] = ()  # options of vatt synth


class CommandFailed(VattError):
    """A command among several did not go through."""


@dataclass(frozen=True)
class Source:
    """What all ways train on.

    Attributes:
        name: for people.
        manifest: with splits train and test.
        vocabulary: folder, for the ways with texts.
        cache: folder for decoded files.
        config: of the data, in place of that in the configuration of a way.
    """

    name: str
    manifest: Path
    vocabulary: Path
    cache: Path
    config: str | None = None

    def build_options(self) -> list[str]:
        """To build a way without looking at files."""
        chosen = [] if self.config is None else [f"--data={self.config}"]
        return [*chosen, "--data.manifest=none", "--data.vocabulary=null"]

    def options(self, texts: bool) -> list[str]:
        """To train a way, with captions or by pictures alone."""
        found = [] if self.config is None else ["--data", self.config]
        found += ["--data.manifest", str(self.manifest)]
        if texts:
            return [*found, "--data.vocabulary", str(self.vocabulary), "--data.cache", str(self.cache)]
        pictures = ["--data.modalities", "[video]", "--data.vocabulary", "null"]
        return [*found, *pictures, "--data.cache", f"{self.cache}_video"]


def find_source(corpus: str, data: str | None) -> Source:
    """Where everything is.

    Raises:
        InputError: the data's configuration names no manifest.
    """
    if data is None:
        folder = Path(corpus)
        return Source("synthetic shapes", folder / "manifest.jsonl", folder / "vocabulary", folder / "cache")
    says = yaml.safe_load(find_config(data).read_text(encoding="utf-8"))
    if not isinstance(says, dict) or not says.get("manifest"):
        raise InputError(f"{data} names no manifest")
    manifest = Path(says["manifest"])
    if not manifest.is_file():
        raise FileNotFoundError(f"no manifest at {manifest}, which {data} names")
    cache = Path(says.get("cache") or manifest.with_name("cache"))
    return Source(Path(data).stem, manifest, Path(says.get("vocabulary") or "vocabulary"), cache, data)


def make_corpus(data: Path) -> None:
    """The corpus and a vocabulary of its captions, unless they are there."""
    manifest, vocabulary = data / "manifest.jsonl", data / "vocabulary"
    run_command("synth", str(data), *CORPUS)
    run_command(
        *("vocabulary", str(manifest), "--split", "train", "--size", "512", "--output", str(vocabulary)),
        makes=vocabulary / "vocabulary.json",
        source=manifest,
    )


def train_and_embed(config: str, run: Path, data: Path, options: Sequence[str] = ()) -> None:
    """Pretrain on the corpus and embed its test clips, unless that was done."""
    source = find_source(str(data), None)
    train(config, run, source.manifest, [*options, *source.options(texts=True)])
    embed_test(run, source.manifest)


def train(config: str, run: Path, manifest: Path, options: Sequence[str]) -> None:
    """Pretrain, unless that was done; a run that was stopped goes on."""
    fit = ["pretrain", "fit", "--config", config, "--run.folder", str(run), *options]
    if (run / "checkpoints" / "last.ckpt").is_file():
        fit += ["--ckpt_path", "last"]
    run_command(*fit, makes=run / "model" / "training.json", source=manifest)


def embed_test(run: Path, manifest: Path) -> Path:
    """Embed the test clips with what was trained, unless that was done, and say where."""
    stored = run / "embeddings"
    run_command(
        *("embed", str(manifest), "--split", "test", "--model", str(run / "model"), "--output", str(stored)),
        *("--overwrite", "true"),
        makes=stored / "embeddings.json",
        source=run / "model" / "training.json",
    )
    return stored


def run_command(*argv: str, makes: Path | None = None, source: Path | None = None) -> None:
    """Run a command, unless what it makes is there and newer than what it is made from."""
    from vatt.cli.main import main

    line = shlex.join(("vatt", *argv))
    if makes is not None and makes.is_file() and (source is None or makes.stat().st_mtime >= source.stat().st_mtime):
        print(f"\n$ {line}\n(there already: {makes}; delete it to make it again)", flush=True)
        return
    print(f"\n$ {line}", flush=True)
    if main(list(argv)) != 0:
        raise CommandFailed(f"this command failed: {line}")


def label_by(manifest: Path, attribute: str) -> Path:
    """The training and test rows of the corpus with one of its attributes as labels, in a file beside it.

    Raises:
        InputError: the corpus has no such attribute.
    """
    labelled = manifest.with_name(f"by_{attribute}.jsonl")
    rows = [json.loads(line) for line in read_lines(manifest)]
    known = sorted(name.removeprefix("x_") for name in rows[0] if name.startswith("x_"))
    if attribute not in known:
        raise InputError(f"the corpus has {', '.join(known)}, not {attribute!r}")
    lines = [json.dumps(row | {"label": row[f"x_{attribute}"]}) for row in rows if row["split"] != "val"]
    with atomic_write(labelled, "w") as file:
        file.write("\n".join(lines) + "\n")
    return labelled


def digest(*parts: str | bytes) -> str:
    """Twelve hexadecimal digits of some words or contents."""
    found = hashlib.sha256()
    for part in parts:
        found.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return found.hexdigest()[:12]


def claim(run: Path, asked: str) -> None:
    """Take a folder for a configuration, given by its hash.

    Raises:
        InputError: it has a training of another configuration.
    """
    stamp = run / "claim.json"
    known = json.loads(stamp.read_text(encoding="utf-8"))["configuration"] if stamp.is_file() else None
    if known != asked and any((run / part).exists() for part in ("model", "checkpoints")):
        raise InputError(f"{run} has a training of another configuration: choose another --output, or delete it")
    with atomic_write(stamp, "w") as file:
        json.dump({"configuration": asked}, file)
