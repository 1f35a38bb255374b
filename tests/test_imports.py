"""The arrows between the rooms: who may import whom. See README, "The house"."""

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
    "datasets": {"datasets"} | EVERYONE,
    "models": {"models"} | EVERYONE,
    "models/encoding": {"models", "datasets"} | EVERYONE,  # VATT.encode_video("clip.mp4") imports it when it is called
    "models/vocabulary": {"models", "datasets"} | EVERYONE,  # imported by saving and loading
    "objectives": {"objectives", "models"} | EVERYONE,
    "training": {
        "training",
        "objectives",
        "models",
        "evaluation.metrics",
        "evaluation.classification",
        "evaluation.tracking",
    }
    | EVERYONE,
    "retrieval": {"retrieval", "models", "datasets"} | EVERYONE,
    "evaluation": {"evaluation", "retrieval.saved_embeddings", "retrieval.tables"} | EVERYONE,
    "cli": {"cli", "datasets", "models", "objectives", "training", "retrieval", "evaluation", "resources"} | EVERYONE,
    "__main__": {"cli"},
    "__init__": set(),
}
# Each of these is imported in one place only.
ONLY_IN = {
    "av": {f"datasets/media/{path.name}" for path in (PACKAGE / "datasets/media").iterdir()},
    "decord": {"datasets/media/decord_media.py"},
    "torchcodec": {"datasets/media/torchcodec_media.py"},
    "faiss": {"retrieval/faiss_structures.py"},
    "gradio": {"retrieval/app.py"},
    "fastapi": {"retrieval/app.py"},
    "starlette": {f"retrieval/web/{name}.py" for name in ("guard", "headers", "routes")},
    "uvicorn": {"retrieval/web/server.py"},
    "matplotlib": {"evaluation/plots.py"},
    "transformers": {
        "datasets/huggingface_text.py",
        "models/language.py",
        "models/codes.py",
    },  # vocabularies, towers, codes
    "tensorflow": {"models/official/tensorflow_reader.py"},
    "onnx": {"models/onnx_export.py"},
    "onnxscript": {"models/onnx_export.py"},
    "onnxruntime": {"models/onnx_export.py"},
    "huggingface_hub": {f"models/{name}.py" for name in ("hub", "directories", "card", "card_records")},
    "sentencepiece": {"datasets/sentencepiece_text.py"},
    "torchaudio": {"datasets/media/sound.py"},
    "fsspec": {"datasets/media/remote.py"},
    "pebble": {"datasets/processes.py"},
    "sklearn": {"evaluation/probe.py", "evaluation/pictures.py"},
    "webdataset": {"datasets/shards/writing.py"},
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
def test_rooms_import_only_downward(path: Path) -> None:
    place = path.relative_to(PACKAGE)
    room = place.with_suffix("").as_posix()
    room = room if room in MAY_IMPORT else place.parts[0]
    for name in imports(path):
        if name.split(".")[0] != "vatt":
            continue
        target = name.removeprefix("vatt.")
        if target == "__version__":
            continue
        allowed = any(target == ok or target.startswith(ok + ".") for ok in MAY_IMPORT[room])
        assert allowed, f"{path.relative_to(PACKAGE)} imports {name}; {room} may import {sorted(MAY_IMPORT[room])}"


@pytest.mark.parametrize("package", ONLY_IN)
def test_each_heavy_package_has_one_home(package: str) -> None:
    homes = {
        path.relative_to(PACKAGE).as_posix()
        for path in files()
        if any(name.split(".")[0] == package for name in imports(path))
    }
    assert homes <= ONLY_IN[package]


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
