"""Identification of checkpoints to convert, by their content and without loading them."""

from __future__ import annotations

import codecs
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from vatt.errors import InputError
from vatt.hub.official.huggingface_config import CONFIG, KEYS, short_json
from vatt.hub.official.huggingface_weights import ADAPTER, FILES, LFS_POINTER
from vatt.untrusted import inner_file, read_json

Kind = Literal["tensorflow", "video"]
EXPECTED = (
    "Pass a TensorFlow checkpoint of VATT (ckpt-N.index), a checkpoint of V-JEPA (.pth.tar), or the directory of a "
    "Hugging Face V-JEPA 2 or VideoMAE"
)
AGAIN = "download the file again"
EXTRACT = "extract it, and pass the checkpoint in it"
LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # magic number of torch.save before PyTorch 1.6
LIGHTNING = b"pytorch-lightning_version"  # key of checkpoints of Lightning
TORCH_SUFFIXES = (".pth.tar", ".pth", ".pt")
HEAD = 4096  # bytes that are read
MAX_PICKLE = 2**26  # bytes of the description of a PyTorch file
MAGIC: tuple[tuple[int, bytes, str, str], ...] = (  # offset, bytes, what the file is, what to do
    (0, LFS_POINTER, "is a Git LFS pointer, not the file itself", "run git lfs pull"),
    (0, b"\x1f\x8b", "is a gzip archive", EXTRACT),
    (0, b"BZh", "is a bzip2 archive", EXTRACT),
    (0, b"\xfd7zXZ\0", "is an xz archive", EXTRACT),
    (0, b"(\xb5/\xfd", "is a Zstandard archive", EXTRACT),
    (0, b"7z\xbc\xaf'\x1c", "is a 7z archive", EXTRACT),
    (0, b"Rar!", "is a RAR archive", EXTRACT),
    (257, b"ustar", "is a tar archive", EXTRACT),
    (0, b"\x89HDF", "is an HDF5 file, such as a Keras model", EXPECTED),
    (0, b"\x93NUMPY", "is a single NumPy array", EXPECTED),
    (0, b"GGUF", "is a GGUF model", EXPECTED),
    (4, b"TFL3", "is a TensorFlow Lite model", EXPECTED),
    (0, b"PAR1", "is a Parquet file", EXPECTED),
    (0, b"%PDF", "is a PDF document", EXPECTED),
    (4, b"ftyp", "is a media file", EXPECTED),
    (0, b"RIFF", "is a media file", EXPECTED),
    (0, b"\x1aE\xdf\xa3", "is a media file", EXPECTED),
    (0, b"OggS", "is a media file", EXPECTED),
    (0, b"fLaC", "is a media file", EXPECTED),
    (0, b"ID3", "is a media file", EXPECTED),
    (0, b"\xff\xfb", "is a media file", EXPECTED),
    (0, b"FLV\x01", "is a media file", EXPECTED),
    (0, b"0&\xb2u\x8ef\xcf\x11", "is a media file", EXPECTED),
    (0, b"\x00\x00\x01\xba", "is a media file", EXPECTED),
    (0, b"\x00\x00\x01\xb3", "is a media file", EXPECTED),
    (188, b"G", "is a media file", EXPECTED),  # MPEG-TS; its first byte is checked below
    (0, b"\x89PNG", "is an image", EXPECTED),
    (0, b"\xff\xd8\xff", "is an image", EXPECTED),
    (0, b"GIF8", "is an image", EXPECTED),
)
SUFFIXES = {
    ".onnx": ("is an ONNX file, which cannot be converted back", "use the model that it was exported from"),
    ".pb": ("is a TensorFlow graph or SavedModel, not a checkpoint", "pass ckpt-N.index of the training"),
    ".faiss": ("is a file of a search index", EXPECTED),
}
CONTENTS = {  # file or directory in a directory: what the directory is, what to do
    "saved_model.pb": ("is a TensorFlow SavedModel, not a checkpoint", "pass ckpt-N.index of the training"),
    "saved_model.pbtxt": ("is a TensorFlow SavedModel, not a checkpoint", "pass ckpt-N.index of the training"),
    "onnx.json": ("holds an ONNX export, which cannot be converted back", "use the model that it was exported from"),
    "embeddings.json": ("holds embeddings of vatt embed", EXPECTED),
    "embeddings.parquet": ("holds embeddings of vatt embed", EXPECTED),
    "index.json": ("holds an index of vatt index", EXPECTED),
    "vocabulary.json": ("holds a vocabulary", EXPECTED),
    ADAPTER: ("holds an adapter (PEFT), not a model", "merge it with merge_and_unload, and save the merged model"),
    "snapshots": ("is a cache of the Hugging Face Hub", "pass the directory of a revision in snapshots"),
}


def identify(path: str | Path) -> Kind:
    """Return the converter for a path: "tensorflow" (`files.read_variables`) or "video" (`video.convert`).

    Raises:
        FileNotFoundError: The path does not exist.
        InputError: It holds something else; the message states what it is and what to pass instead.
    """
    path = Path(path)
    if path.is_dir():
        return _directory(path)
    if path.is_file():
        return _file(path)
    if path.exists():
        raise InputError(f"{path} is not a regular file. {EXPECTED}")
    if (
        path.suffix in (".index", ".npz")
        or ".data-" in path.name
        or Path(f"{path}.index").exists()
        or "ckpt" in path.name
    ):
        return "tensorflow"  # the reader names the missing file
    hub = ". To convert a model of the Hugging Face Hub, download it first: hf download NAME --local-dir DIRECTORY"
    raise FileNotFoundError(f"{path} does not exist{hub if len(path.parts) == 2 else ''}")


def check_output(output: str | Path) -> None:
    """Check that a model can be written to a directory.

    Raises:
        InputError: It contains a model of another library, such as the one to convert, which would be overwritten.
    """
    path = Path(output)
    if (path / CONFIG).exists() and not _is_vatt(read_json(path / CONFIG)):
        raise InputError(f"{path} holds another model, whose {CONFIG} would be overwritten: choose another directory")


def _directory(path: Path) -> Kind:
    names = {entry.name for entry in path.iterdir()}
    if not names:
        raise InputError(f"{path} is an empty directory. {EXPECTED}")
    if CONFIG in names:
        return _config(path)
    if (path.parent / "saved_model.pb").exists():
        raise _error(path.parent, *CONTENTS["saved_model.pb"])
    if any(name.endswith(".index") for name in names):
        return "tensorflow"
    run = path.parent if path.name == "checkpoints" else path
    if _is_vatt_model(run / "model"):
        raise _error(run, "is the directory of a vatt training", f"its model is {run / 'model'}; use it as it is")
    checkpoints = next((p for p in (path, path / "checkpoints") if any(p.glob("*.ckpt"))), None)
    if checkpoints is not None:
        what = "holds checkpoints of a training, which has no exported model yet"
        raise _error(path, what, "resume it with --ckpt_path: a training saves its model at the end")
    for name, (what, remedy) in CONTENTS.items():
        if name in names:
            raise _error(path, what, remedy)
    if any(name.endswith(".onnx") for name in names):
        raise _error(path, *CONTENTS["onnx.json"])
    if names.intersection(FILES) or any(name.endswith((".safetensors", ".bin")) for name in names):
        raise _error(path, f"has weights, but no {CONFIG}", f"copy {CONFIG} and the preprocessing files next to them")
    inner = [name for name in sorted(names) if (path / name / CONFIG).exists() or name.endswith(TORCH_SUFFIXES)]
    hint = f"Did you mean {path / inner[0]}?" if inner else EXPECTED
    raise InputError(f"{path} is a directory without {CONFIG} and without a TensorFlow checkpoint (.index). {hint}")


def _config(path: Path) -> Kind:
    """Identify a directory by its config.json."""
    config = read_json(inner_file(path, CONFIG))
    if _is_vatt(config):
        raise _error(path, "is a vatt model already", "use it as it is")
    model_type = config.get("model_type")
    if model_type in tuple(KEYS):
        return "video"
    if model_type is None:
        raise InputError(f"{path / CONFIG} has no 'model_type', so it is not of a Hugging Face model. {EXPECTED}")
    raise InputError(
        f"{path} is a Hugging Face model of type {short_json(model_type)}, which cannot be converted: only "
        f"{' and '.join(KEYS)} can"
    )


def _file(path: Path) -> Kind:
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise InputError(f"{path} is empty: {AGAIN}")
    if (path.suffix == ".index" or ".data-" in path.name) and _text(head) is None:
        if (path.parent.parent / "saved_model.pb").exists():
            raise _error(path.parent.parent, *CONTENTS["saved_model.pb"])
        return "tensorflow"
    if head.startswith(b"PK"):
        return _zip(path)
    if path.suffix in SUFFIXES:
        raise _error(path, *SUFFIXES[path.suffix])
    for offset, magic, what, remedy in MAGIC:
        if head[offset : offset + len(magic)] == magic and (offset != 188 or head[:1] == b"G"):
            raise _error(path, what, remedy)
    if head.startswith(LEGACY_TORCH):
        with path.open("rb") as file:
            if LIGHTNING in file.read(MAX_PICKLE):
                raise _lightning(path)
        return "video"
    if head[0] == 0x80 and head[1] in range(2, 6):
        raise _error(path, "is a pickle of Python objects, which is not loaded for security", EXPECTED)
    if head[8:9] == b"{":
        raise _safetensors(path, head)
    if (text := _text(head)) is not None:
        raise _error(path, *_describe_text(path, text))
    raise InputError(f"{path} is not a checkpoint that can be converted: its format is unknown. {EXPECTED}")


def _zip(path: Path) -> Kind:
    """Identify a zip file: PyTorch and NumPy use this format."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            pickles = [name for name in names if name.endswith("/data.pkl")]
            text = b"".join(_chunks(archive, pickles[0])) if pickles else b""
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is a truncated or damaged PyTorch, NumPy or zip file: {AGAIN}") from error
    if any(name.endswith("/constants.pkl") for name in names):
        raise _error(path, "is a TorchScript program", EXPECTED)
    if LIGHTNING in text:
        raise _lightning(path)
    if pickles:
        return "video"
    if names and all(name.endswith(".npy") for name in names):
        if path.suffix == ".npz":
            return "tensorflow"
        raise _error(path, "holds NumPy arrays", "rename it to .npz")
    if "metadata.json" in names and "model.weights.h5" in names:
        raise _error(path, "is a Keras model", EXPECTED)
    raise _error(path, "is a zip archive", EXTRACT)


def _lightning(path: Path) -> InputError:
    """Return the error for a checkpoint of Lightning, which names the model if that of the same run exists."""
    checkpoints = path.absolute().parent
    model = checkpoints.parent / "model"
    remedy = "a vatt training saves its model in RUN/model at the end: use that as it is, or resume the training"
    if checkpoints.name == "checkpoints" and _is_vatt_model(model):
        remedy = f"the model of this training is {model}: use it as it is"
    return _error(path, "is a checkpoint of a Lightning training", remedy)


def _chunks(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    with archive.open(name) as file:
        yield file.read(MAX_PICKLE)


def _safetensors(path: Path, head: bytes) -> InputError:
    """Return the error for a safetensors file, which starts with the length of its header."""
    if int.from_bytes(head[:8], "little") + 8 > path.stat().st_size:
        return InputError(f"{path} is a truncated safetensors file: {AGAIN}")
    directory = path.parent if (path.parent / CONFIG).exists() else f"the directory that holds it and {CONFIG}"
    return _error(path, "is the weights of a model", f"pass {directory}")


def _text(head: bytes) -> str | None:
    """Return the beginning of a text file, or None for a binary file."""
    encoding = "utf-16" if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _describe_text(path: Path, text: str) -> tuple[str, str]:
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<?xml")):
        return "is a web page, not the file that its link names", AGAIN
    if start.startswith("model_checkpoint_path"):
        return "is a list of TensorFlow checkpoints", f"pass ckpt-N.index, or the directory {path.parent}"
    if path.name == CONFIG and start.startswith("{") and _is_vatt(read_json(path)):
        return "belongs to a vatt model, which needs no conversion", f"use {path.parent} as it is"
    if path.name.endswith(".index.json") or path.name == CONFIG:
        return "is one file of a Hugging Face model", f"pass the directory {path.parent}"
    return f"is a {'JSON' if start.startswith(('{', '[')) else 'text'} file, not a checkpoint", EXPECTED


def _is_vatt_model(path: Path) -> bool:
    """Return whether a directory holds a vatt model."""
    return (path / CONFIG).exists() and _is_vatt(read_json(inner_file(path, CONFIG)))


def _is_vatt(config: dict[str, object]) -> bool:
    return config.get("model") in ("VATT", "Classifier") and "backbone" in config


def _error(path: Path, what: str, remedy: str) -> InputError:
    separator = ". " if remedy[0].isupper() else ": "
    return InputError(f"{path} {what}{separator}{remedy}")
