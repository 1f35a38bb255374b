"""Other files than checkpoints: the error states what they are and what to pass instead."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import TINY
from vatt.cli.main import main
from vatt.hub.official.identify import identify
from vatt.models.backbone import Backbone
from vatt.models.heads import LinearClassifier
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import Classifier


def vatt_model(folder: Path) -> Path:
    backbone = Backbone({"video": VideoTokenizer(8, (2, 2, 2))}, {"video": Transformer(8, 1, 1)})
    Classifier(backbone, LinearClassifier(8, 3), TINY).save_pretrained(folder)
    return folder


def lightning(path: Path, **kwargs: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = {"state_dict": {"a": torch.zeros(3)}, "pytorch-lightning_version": "2.6.0", "callbacks": {}}
    torch.save(checkpoint, path, **kwargs)
    return path


def run_directory(root: Path) -> Path:
    vatt_model(root / "run" / "model")
    lightning(root / "run" / "checkpoints" / "last.ckpt")
    return root / "run"


def content(name: str, data: bytes) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        (root / name).write_bytes(data)
        return root / name

    return build


def directory(*names: str, **files: Any) -> Callable[[Path], Path]:
    """Build a directory with empty files of these names, and JSON files (``config`` is config.json)."""

    def build(root: Path) -> Path:
        for name in names:
            (root / "directory" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "directory" / name).write_bytes(b"x")
        (root / "directory").mkdir(exist_ok=True)
        for name, value in files.items():
            (root / "directory" / f"{name}.json").write_text(json.dumps(value))
        return root / "directory"

    return build


def archive(name: str, *members: str) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        with zipfile.ZipFile(root / name, "w") as file:
            for member in members:
                file.writestr(member, "x")
        return root / name

    return build


def tar(root: Path) -> Path:
    with tarfile.open(root / "vjepa.pth.tar", "w") as file:
        file.addfile(tarfile.TarInfo("vitl16.pth"), io.BytesIO())
    return root / "vjepa.pth.tar"


def torch_file(value: Any, cut: int | None = None, **kwargs: Any) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        torch.save(value, root / "a.pth", **kwargs)
        (root / "a.pth").write_bytes((root / "a.pth").read_bytes()[:cut])
        return root / "a.pth"

    return build


def safetensors(cut: int | None = None) -> Callable[[Path], Path]:
    def build(root: Path) -> Path:
        save_file({"a": torch.zeros(3)}, root / "a.safetensors")
        (root / "a.safetensors").write_bytes((root / "a.safetensors").read_bytes()[:cut])
        return root / "a.safetensors"

    return build


def script(root: Path) -> Path:
    with zipfile.ZipFile(root / "a.pt", "w") as file:
        for member in ("a/data.pkl", "a/constants.pkl", "a/code/a.py"):
            file.writestr(member, "x")
    return root / "a.pt"


def saved_model(root: Path) -> Path:
    path = directory("saved_model.pb", "variables/variables.index")(root)
    (path / "variables" / "variables.index").write_bytes(b"\0\1\2\xff")
    return path


EARLY = {"_use_new_zipfile_serialization": False}
CASES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "vatt model": (lambda root: vatt_model(root / "model"), "is a vatt model already: use it as it is"),
    "run directory": (run_directory, "is the directory of a vatt training: its model is {root}/run/model; use"),
    "checkpoints": (lambda root: lightning(root / "run" / "last.ckpt").parent, "no exported model yet: resume it"),
    "checkpoints of a run": (
        lambda root: run_directory(root) / "checkpoints",
        "run is the directory of a vatt training: its model is {root}/run/model; use it as it is",
    ),
    "checkpoint": (lambda root: lightning(root / "last.ckpt"), "is a checkpoint of a Lightning training: a vatt"),
    "checkpoint of a run": (
        lambda root: run_directory(root) / "checkpoints" / "last.ckpt",
        "is a checkpoint of a Lightning training: the model of this training is {root}/run/model: use it as it is",
    ),
    "checkpoint near another model": (
        lambda root: lightning(vatt_model(root / "model").parent / "logs" / "last.ckpt"),
        "is a checkpoint of a Lightning training: a vatt training saves its model in RUN/model",
    ),
    "early checkpoint": (
        lambda root: lightning(root / "last.ckpt", **EARLY), "is a checkpoint of a Lightning training: a vatt",
    ),
    "config.json of vatt": (
        lambda root: vatt_model(root / "model") / "config.json",
        "belongs to a vatt model, which needs no conversion: use {root}/model as it is",
    ),
    "ONNX file": (content("video.onnx", b"\x08\x08\x12\x07pytorch"), "is an ONNX file, which cannot be converted back"),
    "ONNX export": (directory("video.onnx", onnx={}), "holds an ONNX export"),
    "ONNX directory": (directory("model.onnx"), "holds an ONNX export"),
    "text": (content("notes.txt", "Modèle".encode()), "is a text file, not a checkpoint. Pass a TensorFlow"),
    "text named as a checkpoint": (content("vitl16.pth.tar", b"Not Found"), "is a text file"),
    "text in UTF-16": (content("notes.txt", "notes".encode("utf-16")), "is a text file"),
    "text cut within a letter": (content("notes.txt", b"a" + "é".encode() * 4096), "is a text file"),
    "JSON": (content("a.json", b' {"a": 1}'), "is a JSON file"),
    "config.json": (content("config.json", b"{}"), "is one file of a Hugging Face model: pass the directory"),
    "web page": (content("a.pth", b"\n<!DOCTYPE html><html>"), "is a web page, not the file that its link names: down"),
    "LFS pointer": (content("a.npz", b"version https://git-lfs.github.com/spec/v1\n"), "is a Git LFS pointer"),
    "list of checkpoints": (content("checkpoint", b'model_checkpoint_path: "ckpt-1"\n'), "pass ckpt-N.index"),
    "empty file": (content("a.pth", b""), "is empty: download the file again"),
    "MP4": (content("a.mp4", b"\0\0\0\x18ftypmp42"), "is a media file"),
    "Matroska": (content("a.mkv", b"\x1aE\xdf\xa3\xa3B"), "is a media file"),
    "MPEG-TS": (content("a.ts", (b"G" + b"\xff" * 187) * 3), "is a media file"),
    "PNG": (content("a.png", b"\x89PNG\r\n\x1a\n"), "is an image"),
    "pickle": (content("a.pkl", pickle.dumps({"a": 1})), "is a pickle of Python objects, which is not loaded for"),
    "HDF5": (content("a.h5", b"\x89HDF\r\n\x1a\n"), "is an HDF5 file, such as a Keras model"),
    "array": (content("a.npy", b"\x93NUMPY\x01\0"), "is a single NumPy array"),
    "gzip": (content("a.pth", gzip.compress(b"x")), "is a gzip archive: extract it, and pass the checkpoint in it"),
    "tar": (tar, "is a tar archive: extract it"),
    "zip": (archive("a.zip", "ckpt-1.index"), "is a zip archive: extract it"),
    "Keras": (archive("a.keras", "metadata.json", "config.json", "model.weights.h5"), "is a Keras model"),
    "arrays": (archive("a.zip", "weight.npy"), "holds NumPy arrays: rename it to .npz"),
    "truncated zip": (content("a.npz", b"PK\x03\x04" + b"\0" * 100), "is a truncated or damaged PyTorch, NumPy or"),
    "truncated PyTorch file": (torch_file({"a": torch.zeros(99)}, -100), "is a truncated or damaged PyTorch"),
    "TorchScript": (script, "is a TorchScript program"),
    "PyTorch file": (torch_file({"model": {"a": torch.zeros(3)}}), "not a checkpoint of V-JEPA: it has no target_enc"),
    "tensor": (torch_file(torch.zeros(3)), "it has no target_encoder (it has no keys)"),
    "early PyTorch file": (torch_file({"a": torch.zeros(3)}, **EARLY), "no target_encoder"),
    "truncated early PyTorch file": (torch_file({"a": torch.zeros(3)}, -8, **EARLY), "cannot be read"),
    "safetensors": (safetensors(), "is the weights of a model: pass the directory that holds it and config.json"),
    "truncated safetensors": (safetensors(20), "is a truncated safetensors file: download the file again"),
    "unknown": (content("a.bin", b"\xfe\xfe\0\1"), "is not a checkpoint that can be converted: its format is unknown"),
    "index file": (content("hnsw.faiss", b"IHNf\0\0"), "is a file of a search index"),
    "graph": (content("saved_model.pb", b"\x08\x01\x12\xff\xfe"), "is a TensorFlow graph or SavedModel, not a checkpo"),
    "empty directory": (directory(), "is an empty directory"),
    "other directory": (directory("a.mp4"), "is a directory without config.json and without a TensorFlow checkpoint"),
    "parent": (directory("inner/config.json"), "Did you mean {root}/directory/inner?"),
    "directory of V-JEPA": (directory("vitl16.pth.tar"), "Did you mean {root}/directory/vitl16.pth.tar?"),
    "SavedModel": (lambda root: saved_model(root), "is a TensorFlow SavedModel, not a ch"),
    "variables of a SavedModel": (
        lambda root: saved_model(root) / "variables", "directory is a TensorFlow SavedModel",
    ),
    "index of a SavedModel": (
        lambda root: saved_model(root) / "variables" / "variables.index", "directory is a TensorFlow SavedModel"
    ),
    "embeddings": (directory("embeddings.parquet/00000.parquet", embeddings={}), "holds embeddings of vatt embed"),
    "index": (directory("hnsw.faiss", index={}), "holds an index of vatt index"),
    "vocabulary": (directory(vocabulary={}), "holds a vocabulary"),
    "weights only": (directory("model.safetensors"), "has weights, but no config.json: copy config.json and the prep"),
    "cache of the Hub": (directory("snapshots/abc/config.json", "refs/main"), "is a cache of the Hugging Face Hub"),
    "CLIP": (directory("model.safetensors", config={"model_type": "clip"}), 'model of type "clip", which cannot be'),
    "odd type": (directory(config={"model_type": ["vjepa2"]}), "cannot be converted: only vjepa2 and videomae can"),
    "no type": (directory(config={"architecture": "vit_base"}), "config.json has no 'model_type'"),
    "damaged config.json": (directory("config.json"), "config.json is damaged"),
    "absent": (lambda root: root / "model", "model does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_other_files_are_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build, message = CASES[case]
    path = build(tmp_path)
    assert main(["convert", str(path), str(tmp_path / "output")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vatt convert: error: ")
    assert message.format(root=tmp_path) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "output").exists()


def test_names_of_the_hub_are_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "facebook/vjepa2-vitl-fpc64-256", "output"]) == 2
    assert "does not exist. To convert a model of the Hugging Face Hub, download it" in capsys.readouterr().err


def test_pipes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert main(["convert", str(tmp_path / "pipe"), str(tmp_path / "output")]) == 2
    assert "is not a regular file" in capsys.readouterr().err


def test_checkpoints_are_identified_by_their_content(tmp_path: Path) -> None:
    torch.save({"target_encoder": {}}, tmp_path / "model.any")
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    (tmp_path / "ckpt-1.index").write_bytes(b"\0\1\2\xff")
    (tmp_path / "ckpt-1.data-00000-of-00001").write_bytes(b"\xff\xfb\0\0")  # the first bytes of an MP3 file
    (tmp_path / "vjepa2").mkdir()
    (tmp_path / "vjepa2" / "config.json").write_text('{"model_type": "vjepa2"}')
    assert [identify(tmp_path / name) for name in ("model.any", "vjepa2")] == ["video"] * 2
    assert [identify(tmp_path / name) for name in ("a.npz", "ckpt-1.index", "ckpt-1", "ckpt-2", ".")] == [
        "tensorflow"
    ] * 5


def test_a_model_is_not_overwritten_by_its_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vjepa2"}')
    assert main(["convert", str(tmp_path), str(tmp_path)]) == 2
    assert "holds another model, whose config.json would be overwritten" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == '{"model_type": "vjepa2"}'
