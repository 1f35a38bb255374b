"""What the README tells people to type is understood, and what it links to is there."""

from __future__ import annotations

import itertools
import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from vatt.cli.finetune import build_finetuning
from vatt.cli.main import COMMANDS, main, make_parser
from vatt.cli.training import VattCLI
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.training.pretrain import PretrainModule

PAGES = [ROOT / "README.md", ROOT / "data" / "README.md", ROOT / "benchmarks" / "RESULTS.md"]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
LINES = sorted(
    {line.strip().partition("  #")[0] for line in re.findall(r"^ *(vatt .*)$", TEXT, re.MULTILINE)}
    | set(re.findall(r"`(vatt manifest [^`]+ --output [^`]+)`", TEXT))
)


@pytest.mark.parametrize("line", LINES)
def test_a_command_has_these_arguments(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, word, *rest = shlex.split(line)
    assert word in COMMANDS
    if word == "pretrain":
        WordVocabulary(["a"]).save(tmp_path)
        places = ["--data.vocabulary", str(tmp_path)]
        if "--data" not in rest:  # which may name several manifests
            places += ["--data.manifest", "clips.csv"]
        assert rest[0] in ("fit", "validate")
        options = [word for word in rest[1:] if word not in ("--print_config",)]
        if "--ckpt_path" in options:
            place = options.index("--ckpt_path")
            assert options[place + 1] == "last"
            del options[place : place + 2]
        monkeypatch.chdir(ROOT)
        if "toto" in line:  # whose codes come from the Hub
            transformers = pytest.importorskip("transformers")
            codebook = transformers.FlavaImageCodebook
            monkeypatch.setattr(
                codebook,
                "from_pretrained",
                lambda *_, **__: (codebook(transformers.FlavaImageCodebookConfig()), {"missing_keys": []}),
            )
        with torch.device("meta"):
            VattCLI(PretrainModule, ClipDataModule, args=[*options, *places], run=False, seed_everything_default=0)
        return
    if word == "finetune":
        (tmp_path / "a.wav").touch()
        parts = ("train", "train", "val")
        rows = [
            {"path": "a.wav", "id": f"{i}", "start_s": i / 1000, "label": "ab"[i % 2], "split": part}
            for i, part in enumerate(parts)
        ]
        (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))
        changed = {"--data.manifest": f"{tmp_path}/clips.jsonl", "--model.pretrained": None}
        options = [changed.get(before, word) for before, word in itertools.pairwise(rest)]
        options = [word for word in options if word not in (None, "--model.pretrained")]
        monkeypatch.chdir(ROOT)
        assert rest[0] in ("fit", "validate", "test")
        with torch.device("meta"):
            build_finetuning([*options, "--model.backbone=configs/backbone/bbs.yaml"])
        return
    if word == "manifest":
        check_script_arguments(rest, monkeypatch)
        return
    where, positional, _ = COMMANDS[word]
    module, name = where.split(":")
    make_parser(word, getattr(import_module(module), name), positional).parse_args(rest)


class Parsed(Exception):
    """The script of a dataset has parsed its arguments."""


def check_script_arguments(argv: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that ``vatt manifest`` and the script of the dataset accept arguments, without running the script."""
    parse_args = ArgumentParser.parse_args

    def parse(parser: ArgumentParser, *args: list[str]) -> Namespace:
        values = parse_args(parser, *args)
        if parser.prog != "vatt manifest":
            raise Parsed
        return values

    monkeypatch.setattr(ArgumentParser, "parse_args", parse)
    with pytest.raises(Parsed):
        main(["manifest", *argv])


def test_there_are_commands() -> None:
    assert {shlex.split(line)[1] for line in LINES} >= set(COMMANDS) - {"synth", "demo"}


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"(?:^|`)make ([a-z-]+)", TEXT, re.MULTILINE))
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: object) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_parts_work_without_lightning() -> None:
    """The Python example that makes its own, as it stands."""
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (example,) = (text for text in examples if "vatt.Backbone(" in text)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["seen"].shape == names["heard"].shape == (8, 128)
    assert names["loss"].ndim == 0


def test_files_and_words_are_encoded(model_folder: Path, video_file: Path) -> None:
    """The Python example that takes a model, on a small one and a file that is there."""
    (example,) = (text for text in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL) if "encode_video(" in text)
    example = re.sub(
        r"path/to/[a-z]+\.[a-z0-9]+", str(video_file), example.replace("runs/demo/model", str(model_folder))
    )
    names: dict[str, torch.Tensor] = {}
    exec(example, names)
    assert names["scores"].shape == (2, 2)
    assert names["sounds"].shape == (1, 1)
