"""Commands and examples of the README and of the documentation work."""

from __future__ import annotations

import configparser
import itertools
import json
import re
import shlex
from argparse import ArgumentParser, Namespace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import vatt
from tests.conftest import ROOT
from tests.pages import PAGES, README, blocks, read, shell_lines
from vatt.cli.finetune import build_finetuning
from vatt.cli.main import COMMANDS, main, make_parser
from vatt.cli.training import build_pretraining
from vatt.datasets.text.vocabularies import WordVocabulary

COMMAND_LINES = sorted(
    {line for page in PAGES for line in shell_lines(page)}
    | {line for page in PAGES for line in re.findall(r"`(vatt manifest [^`]+ --output [^`]+)`", read(page))}
)
SECTIONS = [
    "Installation",
    "Quickstart",
    "Your own videos",
    "Python API",
    "Objectives",
    "Results",
    "Documentation",
    "Commands",
    "Limits",
    "Development",
    "Citation",
    "License",
]
EXAMPLES = [code for page in PAGES for code in blocks(page, "python")]


def vatt_commands(line: str) -> list[list[str]]:
    """Return the arguments of the ``vatt`` commands that a line of a shell runs.

    Raises:
        ValueError: The line runs another command than those that the tests know.
    """
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z]+=\S*", words[0]):
        del words[0]
    match words:
        case ["vatt", *arguments]:
            return [arguments]
        case ["sbatch", *_, "--wrap", wrapped]:
            return vatt_commands(wrapped.replace("$SLURM_ARRAY_TASK_ID", "3"))
        case ["sbatch", script, *arguments] | [script, *arguments] if script.startswith("configs/cluster/"):
            assert (ROOT / script).is_file()
            return [["pretrain", "fit", *arguments]]
        case ["python", script, *_] if (ROOT / script).is_file():
            return []
        case ["pip", "install", "-e", extras]:
            check_extras(extras)
            return []
        case ["make", target, *_] if re.search(rf"^{target}:", read(ROOT / "Makefile"), re.MULTILINE):
            return []
        case ["pytest", "-m", marker] if f'"{marker}: ' in read(ROOT / "pyproject.toml"):
            return []
        case ["tensorboard", "--logdir", _]:
            return []
    raise ValueError(f"unknown command: {line}")


def check_extras(requirement: str) -> None:
    """Check that the extras of a requirement, such as ``.[all]``, are those of the package."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert set(requirement.removeprefix(".[").removesuffix("]").split(",")) <= set(setup["options.extras_require"])


COMMANDS_OF_PAGES = [command for line in COMMAND_LINES for command in vatt_commands(line)]


def test_readme_is_short_and_has_its_sections() -> None:
    assert len(read(README).splitlines()) <= 200
    assert re.findall(r"^## (.+)$", read(README), re.MULTILINE) == SECTIONS


def test_readme_has_every_command() -> None:
    table = read(README).partition("## Commands")[2].partition("\n## ")[0]
    rows = [row.split("|")[2] for row in table.splitlines() if row.startswith("|")]
    assert sorted(name for row in rows for name in re.findall(r"`([a-z]+)`", row)) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS_OF_PAGES, ids=" ".join)
def test_commands_accept_the_documented_arguments(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    word, *rest = command
    assert word in COMMANDS
    if word == "pretrain":
        WordVocabulary(["a"]).save(tmp_path)
        places = ["--data.vocabulary", str(tmp_path)]
        if "--data" not in rest:  # which may name several manifests
            places += ["--data.manifest", "clips.csv"]
        assert rest[0] in ("fit", "validate")
        options = [word for word in rest[1:] if word != "--print_config"]
        if "--model.pretrained" in options:  # a model that does not exist here
            place = options.index("--model.pretrained")
            del options[place : place + 2]
        monkeypatch.chdir(ROOT)
        if "toto" in " ".join(command):  # whose codes come from the Hub
            transformers = pytest.importorskip("transformers")
            codebook = transformers.FlavaImageCodebook
            monkeypatch.setattr(
                codebook,
                "from_pretrained",
                lambda *_, **__: (codebook(transformers.FlavaImageCodebookConfig()), {"missing_keys": []}),
            )
        with torch.device("meta"):
            build_pretraining([*options, *places])
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
    assert {command[0] for command in COMMANDS_OF_PAGES} >= set(COMMANDS) - {"synth", "demo"}


def test_make_targets_exist() -> None:
    targets = {target for page in PAGES for target in re.findall(r"`make ([a-z-]+)`", read(page))}
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", read(ROOT / "Makefile"), re.MULTILINE), target


def test_modules_work_without_lightning() -> None:
    """The example of the architecture runs as it is."""
    (example,) = (code for code in EXAMPLES if "vatt.Backbone(" in code)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["video_features"].shape == names["audio_features"].shape == (8, 128)
    assert names["loss"].ndim == 0


@pytest.mark.parametrize("example", sorted({code for code in EXAMPLES if "encode_video(" in code}))
def test_files_and_texts_are_encoded(example: str, model_folder: Path, video_file: Path) -> None:
    """The examples that encode files run with a small model and a file that exists."""
    example = re.sub(r"path/to/[a-z]+\.[a-z0-9]+", str(video_file), example)
    names: dict[str, Any] = {}
    exec(example.replace("runs/demo/model", str(model_folder)), names)
    assert names["scores"].shape == (2, 2)
    assert names["similarity"].shape == (1, 1)


@pytest.mark.parametrize("example", sorted({code for code in EXAMPLES if "vatt.search(" in code}))
def test_index_is_searched(
    example: str, model_folder: Path, video_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example of embedding and those of searching run with a small model, on one file."""
    (embedding,) = {code for code in EXAMPLES if "vatt.embed(" in code}
    embedding = embedding.replace("path/to/videos", str(video_file)).replace("runs/mine/", f"{tmp_path}/")
    exec(embedding.replace("runs/demo/model", str(model_folder)), {})
    assert "1 of 1" in capsys.readouterr().out
    vatt.Index.build([tmp_path / "embeddings"]).save(tmp_path / "index")
    exec(example.replace("runs/demo/index", str(tmp_path / "index")), {})
    assert str(video_file) in capsys.readouterr().out
