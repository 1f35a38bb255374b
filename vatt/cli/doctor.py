"""``vatt doctor``: what is installed, whether it works, and what to do about what does not."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

State = Literal["ok", "missing", "broken", "note"]
MARKS = {"ok": "ok     ", "missing": "missing", "broken": "BROKEN ", "note": "note   "}
# Module, its distribution, and what is not there without it.
NEEDED = (
    ("torch", "torch", "everything"),
    ("torchaudio", "torchaudio", "resampling, spectrograms"),
    ("lightning", "lightning", "training"),
    ("jsonargparse", "jsonargparse", "configurations"),
    ("torchmetrics", "torchmetrics", "metrics"),
    ("av", "av", "reading media"),
    ("fsspec", "fsspec", "files behind URLs"),
    ("sentencepiece", "sentencepiece", "vocabularies"),
    ("safetensors", "safetensors", "weights"),
    ("huggingface_hub", "huggingface_hub", "models on the Hugging Face Hub"),
    ("pyarrow", "pyarrow", "embeddings, Parquet manifests"),
)
EXTRAS = (  # and the extra that brings it
    ("faiss", "faiss-cpu", "search", "vatt index, vatt search"),
    ("matplotlib", "matplotlib", "plots", "vatt plot"),
    ("tensorboard", "tensorboard", "logs", "TensorBoard's log of a training"),
    ("sklearn", "scikit-learn", "probes", "vatt probe, t-SNE"),
    ("transformers", "transformers", "transformers", "vocabularies and text encoders of Hugging Face"),
    ("webdataset", "webdataset", "shards", "vatt prepare"),
    ("decord", "decord", "decord", "the decoder decord"),
    ("torchcodec", "torchcodec", "torchcodec", "the decoder torchcodec (needs FFmpeg's libraries on the system)"),
    ("onnx", "onnx", "onnx", "vatt onnx"),
    ("onnxscript", "onnxscript", "onnx", "vatt onnx"),
    ("onnxruntime", "onnxruntime", "onnx", "vatt onnx, to compare what it writes with the model"),
    ("tensorflow", "tensorflow-cpu", "tensorflow", "vatt convert, of TensorFlow checkpoints"),
)
SLOW = ("tensorflow",)  # and noisy: is not imported to see whether it works
READ = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "aac", "mp3", "opus", "vorbis", "flac", "pcm_s16le")
WRITTEN = ("libx264", "aac")
GIB = 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        state: "broken" and a "missing" that is needed make the command fail; "note" is worth knowing.
        what: was looked at.
        found: there.
        advice: what to do, if anything.
        needed: nothing works without it.
    """

    state: State
    what: str
    found: str
    advice: str = ""
    needed: bool = False


def doctor(format: Literal["table", "json"] = "table") -> int:
    """Look at this installation: versions, decoders, codecs, GPU, index, memory and disk.

    Exit status: 0 if everything that is needed works, 1 if not.

    Args:
        format: of what is printed.
    """
    findings: list[Finding] = []
    for check in (system, packages, devices, codecs, media, search, space):
        for finding in _guarded(check):
            findings.append(finding)
            if format == "table":
                print(f"{MARKS[finding.state]}  {finding.what}: {finding.found}", flush=True)
                if finding.advice:
                    print(f"         -> {finding.advice}", flush=True)
    bad = [
        finding for finding in findings if finding.state == "broken" or (finding.state == "missing" and finding.needed)
    ]
    if format == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        print(f"\n{len(bad)} things to mend: {', '.join(f.what for f in bad)}" if bad else "\nall that is needed works")
    return 1 if bad else 0


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that fails is a finding, not the end."""
    try:
        yield from check()
    except Exception as error:
        yield Finding("broken", check.__name__, _line(error))


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def system() -> Iterator[Finding]:
    from vatt.evaluation.report import code_version

    yield Finding("ok", "vatt", f"{code_version()}, {Path(__file__).parents[1]}")
    yield Finding("ok", "Python", f"{platform.python_version()}, {sys.executable}, {platform.platform()}")


def packages() -> Iterator[Finding]:
    """What is needed, and what the extras bring: installed, and possible to import."""
    for module, name, purpose in NEEDED:
        pair = "torch torchaudio" if name in ("torch", "torchaudio") else name  # those two are made for each other
        yield _imported(module, name, purpose, f"pip install --force-reinstall {pair}", needed=True)
    for module, name, extra, purpose in EXTRAS:
        yield _imported(module, name, purpose, f'pip install "vatt[{extra}]"', needed=False)


def _imported(module: str, name: str, purpose: str, advice: str, needed: bool) -> Finding:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = ""
    if not version and importlib.util.find_spec(module) is None:
        return Finding("missing", name, f"for {purpose}", advice, needed)
    try:
        if module not in SLOW:
            importlib.import_module(module)
    except Exception as error:
        # What nobody asked for may be broken: it is named, and the rest works.
        return Finding(
            "broken" if needed else "note", name, f"{version} cannot be imported: {_line(error)}", advice, needed
        )
    return Finding("ok", name, version or "of unknown version", needed=needed)


def devices() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("ok", "CPU", f"{cores} cores, {torch.get_num_threads()} threads for PyTorch")
    for number in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(number)
        half = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bf16"
        yield Finding("ok", f"GPU {number}", f"{facts.name}, {facts.total_memory / GIB:.0f} GiB, {half}")
    if torch.cuda.device_count() == 0:
        driver = shutil.which("nvidia-smi") is not None
        advice = "there is a driver: it may be older than this PyTorch's CUDA, see nvidia-smi" if driver else ""
        yield Finding("note", "GPU", f"none that PyTorch (CUDA {torch.version.cuda}) can use", advice)


def codecs() -> Iterator[Finding]:
    """What this PyAV's FFmpeg reads and writes."""
    from vatt.media.formats.codecs import lacking, libraries

    yield Finding("ok", "FFmpeg in PyAV", ", ".join(f"{name} {version}" for name, version in libraries().items()))
    for words, wanted, mode in (("reads", READ, "r"), ("writes", WRITTEN, "w")):
        gone = lacking(wanted, mode)
        there = ", ".join(name for name in wanted if name not in gone)
        if gone:
            advice = "pip install --force-reinstall --only-binary av av"
            yield Finding("note", f"codecs it {words}", f"{there}; not {', '.join(gone)}", advice)
        else:
            yield Finding("ok", f"codecs it {words}", there)


def media() -> Iterator[Finding]:
    """A short clip is written, and read by every decoder that is installed."""
    from vatt.datasets.manifest import read_manifest
    from vatt.media.decoding import open_media
    from vatt.media.frames import Square
    from vatt.preparation.synthetic import Plan, synthesize

    with tempfile.TemporaryDirectory() as folder:
        clip = read_manifest(synthesize(folder, Plan(num_train=1, num_val=1, num_test=1), num_workers=1))[0]
        for decoder in ("pyav", "decord", "torchcodec"):
            if decoder != "pyav" and importlib.util.find_spec(decoder) is None:
                continue
            try:
                with open_media(clip.path, decoder) as opened:
                    frames = opened.frames([0.1, 0.5], Square(64)).frames
            except Exception as error:
                state: State = "broken" if decoder == "pyav" else "note"
                yield Finding(
                    state,
                    f"decoder {decoder}",
                    _line(error),
                    "" if state == "broken" else "the default, auto, does without",
                )
                continue
            good = frames.shape[0] == 2 and float(frames.float().std()) > 1
            yield Finding(
                "ok" if good else "broken", f"decoder {decoder}", f"read {tuple(frames.shape)} of a clip just written"
            )


def search() -> Iterator[Finding]:
    """An index finds a vector again."""
    import numpy as np

    from vatt.retrieval.index import Index
    from vatt.retrieval.store import write_shard

    if importlib.util.find_spec("faiss") is None:
        return
    vectors = np.eye(4, dtype=np.float32)
    columns = {"start_s": 0.0, "end_s": 1.0, "clip_start_s": 0.0, "clip_end_s": None}
    columns |= {"modality": "video", "space": "video_text"}
    with tempfile.TemporaryDirectory() as folder:
        rows = [columns | {"id": str(i), "path": f"{i}.mp4", "vector": vector} for i, vector in enumerate(vectors)]
        write_shard(folder, "none", rows)
        ids = [results[0].id for results in Index.build([folder]).search(vectors, "none", k=1)]
    yield Finding("ok" if ids == ["0", "1", "2", "3"] else "broken", "FAISS", "an index finds what it was given")


def space() -> Iterator[Finding]:
    """Disk, shared memory and open files."""
    for what, path in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(path).free / GIB
        low = free < 10
        advice = "checkpoints and caches need room; TMPDIR moves temporary files" if low else ""
        yield Finding("note" if low else "ok", what, f"{free:.0f} GiB free in {path}", advice)
    shared = Path("/dev/shm")
    if shared.is_dir():
        free = shutil.disk_usage(shared).free / GIB
        low = free < 2
        advice = "workers hand over clips there: docker run --shm-size 8g, or --data.num_workers 0" if low else ""
        yield Finding("note" if low else "ok", "shared memory", f"{free:.1f} GiB free", advice)
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = files < 1024
    yield Finding(
        "note" if low else "ok", "open files", f"{files} at once (at most {most})", "ulimit -n 4096" if low else ""
    )
