"""Rules of imports (docs/architecture.md): which package may import which, and where third-party packages are used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vatt"
EVERYONE = {"structures", "errors", "io", "directories", "locks", "ranges", "signals", "untrusted"}
MAY_IMPORT = {
    "errors": set(),
    "structures": set(),
    "io": {"errors"},
    "directories": {"errors", "io"},
    "locks": {"errors", "io"},
    "ranges": {"errors"},
    "resources": {"errors"},
    "signals": set(),
    "untrusted": {"errors"},
    "media": {"media"} | EVERYONE,
    "datasets": {"datasets", "media"} | EVERYONE,
    "preparation": {"preparation", "datasets", "media"} | EVERYONE,
    "models": {"models"} | EVERYONE,
    "models/encoding": {"models", "datasets", "media"} | EVERYONE,  # imported when VATT.encode_video("a.mp4") is called
    "models/vocabulary": {"models", "datasets"} | EVERYONE,  # imported by saving and loading
    "hub": {"hub", "models"} | EVERYONE,
    "objectives": {"objectives", "models"} | EVERYONE,
    "retrieval": {"retrieval", "models", "datasets", "media"} | EVERYONE,
    "evaluation": {"evaluation", "models", "datasets", "retrieval.saved_embeddings", "retrieval.tables"} | EVERYONE,
    "training": {"training", "objectives", "models"}
    | {f"evaluation.{name}" for name in ("metrics", "classification", "tracking")}
    | EVERYONE,
    "cli": {"cli", "resources", "media", "datasets", "preparation", "models", "hub", "objectives", "retrieval"}
    | {"evaluation", "training"}
    | EVERYONE,
    "__main__": {"cli"},
    "__init__": set(),
}
# Each of these is imported in one place only.
ONLY_IN = {
    "av": {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "media").rglob("*.py")},
    "decord": {"media/decord_media.py"},
    "torchcodec": {"media/torchcodec_media.py"},
    "faiss": {"retrieval/faiss_structures.py"},
    "gradio": {"retrieval/app.py"},
    "fastapi": {"retrieval/app.py"},
    "starlette": {f"retrieval/web/{name}.py" for name in ("guard", "headers", "routes")},
    "uvicorn": {"retrieval/web/server.py"},
    "matplotlib": {"evaluation/plots.py"},
    "transformers": {
        "datasets/text/huggingface.py",
        "models/language.py",
        "models/codebooks.py",
    },  # vocabularies, towers, codes
    "tensorflow": {"hub/official/tensorflow_reader.py"},
    "onnx": {"hub/onnx_export.py"},
    "onnxscript": {"hub/onnx_export.py"},
    "onnxruntime": {"hub/onnx_export.py"},
    "huggingface_hub": {f"models/{name}.py" for name in ("saving", "directories", "card", "card_records")},
    "sentencepiece": {"datasets/text/sentencepiece.py"},
    "torchaudio": {"media/audio.py"},
    "fsspec": {"media/sources/remote.py"},
    "pebble": {"datasets/loading/processes.py"},
    "sklearn": {"evaluation/linear_probe.py", "evaluation/figures.py"},
    "webdataset": {"preparation/shards/writing.py"},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield f"{node.module}.{node.names[0].name}" if node.module == "vatt" else str(node.module)


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_packages_import_in_one_direction(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    package = relative.with_suffix("").as_posix()
    package = package if package in MAY_IMPORT else relative.parts[0]
    for name in imports(path):
        if name.split(".")[0] != "vatt":
            continue
        target = name.removeprefix("vatt.")
        if target == "__version__":
            continue
        allowed = any(target == ok or target.startswith(ok + ".") for ok in MAY_IMPORT[package])
        assert allowed, (
            f"{path.relative_to(PACKAGE)} imports {name}; {package} may import {sorted(MAY_IMPORT[package])}"
        )


@pytest.mark.parametrize("package", ONLY_IN)
def test_third_party_packages_are_imported_in_few_files(package: str) -> None:
    importers = {
        path.relative_to(PACKAGE).as_posix()
        for path in files()
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert importers <= ONLY_IN[package]


def test_losses_tokenizers_and_heads_do_not_need_lightning() -> None:
    code = (
        "import sys; import vatt.models.vatt, vatt.objectives.contrastive, vatt.objectives.losses;"
        "assert 'lightning' not in sys.modules and 'faiss' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from vatt.cli.main import main; assert main(['--help']) == 0;"
        "assert not {'torch', 'lightning', 'jsonargparse', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
