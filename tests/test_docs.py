"""Links, anchors, names and snippets of the documentation are right."""

from __future__ import annotations

import ast
import configparser
import re
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import vatt
from tests.conftest import ROOT
from tests.pages import DOCS, LINKED, PAGES, README, anchors, blocks, links, name_of, prose, read
from vatt.cli.finetune import build_finetuning
from vatt.cli.main import COMMANDS, make_parser
from vatt.cli.training import build_pretraining
from vatt.datasets.text.vocabularies import WordVocabulary

CONFIGS = ROOT / "configs"


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_and_anchors_exist(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path), link


def test_anchors_are_those_of_github_and_mkdocs(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# How many clips, hours and GPUs do I need?\n\n```bash\n# no heading\n```\n\n## `data`: d-prime\n")
    assert anchors(page) == {"how-many-clips-hours-and-gpus-do-i-need", "data-d-prime"}


def test_navigation_has_each_page_once() -> None:
    config = yaml.load(read(ROOT / "mkdocs.yml"), yaml.BaseLoader)

    def pages(entries: list[Any]) -> list[str]:
        values = [value for entry in entries for value in entry.values()]
        return [page for value in values for page in (pages(value) if isinstance(value, list) else [value])]

    assert sorted(pages(config["nav"])) == sorted([*(page.name for page in DOCS), "CHANGELOG.md", "CONTRIBUTING.md"])


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_figures_exist_and_are_described(page: Path) -> None:
    for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", read(page)):
        assert len(text) > 20
        assert (page.parent / target).is_file()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_snippets_parse_and_use_public_names(page: Path) -> None:
    for code in blocks(page, "python"):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "vatt":
                assert node.attr in vatt.__all__


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_snippets_parse_and_name_existing_parts(page: Path) -> None:
    def check(value: Any) -> None:
        if isinstance(value, dict):
            if "class_path" in value:
                assert class_of(value["class_path"])
            for item in value.values():
                check(item)
        elif isinstance(value, str) and value.endswith(".yaml"):
            assert (CONFIGS / value).is_file(), value

    for code in blocks(page, "yaml"):
        check(yaml.safe_load(code))


def class_of(path: str) -> type:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_full_names_of_code_exist(page: Path) -> None:
    """Of names such as `vatt.models.codebooks.DalleCodes`, and of files of the repository."""
    text = read(page)
    for name in set(re.findall(r"`(vatt(?:\.[a-z_]+)+\.[A-Z]\w+)`", text)):
        assert class_of(name)
    for name in set(re.findall(r"`((?:vatt|configs|benchmarks|tests|docs)/[\w/]+(?:\.\w+)?)`", text)):
        assert (ROOT / name).exists() or Path(name).stem == "mine", name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_packaged_configurations_exist(page: Path) -> None:
    experiments = {path.stem for path in CONFIGS.glob("*.yaml")}
    for name in re.findall(r"`((?:pretrain|finetune|demo)_\w+)`", read(page)):
        assert name.rstrip("_") in experiments or any(known.startswith(name) for known in experiments), name
    for name in re.findall(
        r"[` ]((?:data|backbone|objective|trainer)/(?:augment/|transformer/)?[a-z]\w+)[` ]", read(page)
    ):
        assert (CONFIGS / f"{name}.yaml").is_file() or (ROOT / name).exists(), name


def test_objectives_of_the_readme_are_documented() -> None:
    rows = [line for line in read(README).splitlines() if "arxiv.org" in line and line.startswith("|")]
    classes = [re.findall(r"`(\w+)`", row)[0] for row in rows]
    assert len(classes) == 4
    for name in classes:
        assert re.search(rf"`vatt\.objectives\.\w+\.{name}`", read(ROOT / "docs/pretraining.md"))
        assert re.search(rf"^::: vatt\.(\w+\.)*{name}$", read(ROOT / "docs/api.md"), re.MULTILINE)


def test_api_reference_has_every_public_name() -> None:
    names = re.findall(r"^::: vatt\.([\w.]+)$", read(ROOT / "docs/api.md"), re.MULTILINE)
    assert len(names) == len(set(names))
    assert {name for name in names if "." not in name} == set(vatt.__all__) - {"__version__"}
    for name in names:
        if "." in name:
            assert class_of(f"vatt.{name}")


def paths_of(values: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the dotted keys of a configuration, without those of classes."""
    keys = set()
    for name, value in values.items():
        if name == "__path__":  # file of a part
            continue
        if isinstance(value, dict) and "class_path" not in value:
            keys |= paths_of(value, f"{prefix}{name}.")
        else:
            keys.add(f"{prefix}{name}")
    return keys


def documented_keys() -> dict[str, set[str]]:
    """Return the keys in the tables of the configuration reference, by heading."""
    sections = re.split(r"^## ", read(ROOT / "docs/configuration.md"), flags=re.MULTILINE)[1:]
    return {
        section.splitlines()[0]: {
            key for row in re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE) for key in re.findall(r"`([^`]+)`", row)
        }
        for section in sections
    }


def test_configuration_reference_has_every_key_of_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    WordVocabulary(["a"]).save(tmp_path)
    options = ["--config=demo", "--data.manifest=clips.csv", f"--data.vocabulary={tmp_path}"]
    with torch.device("meta"):
        cli = build_pretraining(options)
    config = cli.config.as_dict()
    tables = documented_keys()
    keys = tables["run"] | tables["model"] | tables["data"]
    for section in ("model.optimization", "data.format", "data.augment"):
        keys |= {f"{section}.{key}" for key in tables[section]}
    found = paths_of({name: config[name] for name in ("run", "model", "data")})
    assert found - {"data.seed", "model.seed"} == keys  # seeds are set from seed_everything


@pytest.mark.parametrize(
    ("section", "path"),
    [
        ("model.objective: contrastive", "objective/contrastive.yaml"),
        ("model.objective: V-JEPA", "objective/jepa.yaml"),
        ("model.objective: VideoMAE and 4DS", "objective/videomae.yaml"),
        ("model.objective: autoregression", "objective/autoregressive.yaml"),
    ],
)
def test_configuration_reference_has_every_argument_of_objectives(section: str, path: str) -> None:
    arguments = signature(class_of(yaml.safe_load(read(CONFIGS / path))["class_path"])).parameters
    assert documented_keys()[section] - {"init_args.…"} == set(arguments)


def test_configuration_reference_has_every_key_of_fine_tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "a.wav").touch()
    manifest = tmp_path / "clips.csv"
    manifest.write_text("path,label,split\na.wav,a,train\n")
    options = ["--config=finetune_small", f"--data.manifest={manifest}", "--model.backbone=backbone/bbs"]
    with torch.device("meta"):
        cli = build_finetuning(options)
    config = cli.config.as_dict()
    tables = documented_keys()
    keys = tables["Fine-tuning"] | tables["run"] | tables["model"] | tables["data"]
    keys |= {f"{section}.{key}" for section in ("model.optimization", "data.augment") for key in tables[section]}
    keys |= {f"data.format.{key}" for key in tables["data.format"]}
    linked = {"seed", "classes", "format", "modality", "multi_label", "base"}  # set from other keys
    found = paths_of({name: config[name] for name in ("run", "model", "data")})
    assert {key for key in found - keys if key.rpartition(".")[2] not in linked} == set()


def test_installation_lists_every_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    table = read(ROOT / "docs/getting_started.md").partition("| Extra |")[2].partition("\n\n")[0]
    names = {
        name
        for row in table.splitlines()
        for name in re.findall(r"`([a-z]+)`", row.split("|")[1] if "|" in row else "")
    }
    assert names | {"all"} == set(setup["options.extras_require"])


def known_options() -> set[str]:
    """Return the options of all commands, of the scripts of datasets, and the keys of configurations."""
    options = {"--config", "--ckpt_path", "--print_config", "--seed_everything", "--help"}
    for name, (place, positional, _) in COMMANDS.items():
        module, function = place.split(":")
        if name not in ("pretrain", "finetune", "manifest"):
            parser = make_parser(name, getattr(import_module(module), function), positional)
            options |= {option for action in parser._actions for option in action.option_strings}
    for script in [*(ROOT / "data").rglob("*.py"), *(ROOT / "vatt/preparation/annotations").glob("*.py")]:
        options |= set(re.findall(r"\"(--\w+)\"", read(script)))
    tables = documented_keys()
    keys = tables["run"] | tables["model"] | tables["data"] | tables["trainer"] | tables["Fine-tuning"]
    keys |= {
        f"{section}.{key}"
        for section in ("model.optimization", "data.format", "data.augment")
        for key in tables[section]
    }
    keys |= {key.rpartition(".")[0] for key in keys} | {"data", "model", "trainer"}  # whole sections
    return options | {f"--{key}" for key in keys}


def test_options_in_the_text_exist() -> None:
    known = known_options()
    for page in PAGES:
        for code in re.findall(r"`(?!python )([^`]+)`", prose(page)):
            for option in re.findall(r"(?<!\S)--[a-z][\w.]*", code):
                assert option in known, (name_of(page), option)


@pytest.mark.slow
def test_site_builds_without_warnings(tmp_path: Path) -> None:
    commands = pytest.importorskip("mkdocs.commands.build")
    config = import_module("mkdocs.config").load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path), strict=True)
    config.plugins.on_startup(command="build", dirty=False)
    commands.build(config)
    assert (tmp_path / "api" / "index.html").is_file()
