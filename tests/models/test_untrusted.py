"""Untrusted model directories: damage is reported with file and key, and no code is run."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import ROOT, TINY, WORDS, tiny_backbone, tiny_model
from vatt.datasets.text.sentencepiece import SentencePieceVocabulary
from vatt.datasets.text.vocabularies import WordVocabulary, load_vocabulary
from vatt.errors import InputError
from vatt.models.directories import saved_format
from vatt.models.heads import LinearClassifier
from vatt.models.language import PretrainedText
from vatt.models.part import check_types
from vatt.models.vatt import VATT, Classifier, load_model


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "model"
    torch.manual_seed(0)
    tiny_model().save_pretrained(folder)
    WordVocabulary(WORDS).save(folder / "vocabulary")
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "model")
    return tmp_path / "model"


def configure(folder: Path, *path: Any, value: Any) -> None:
    """Put a value into config.json."""
    config = json.loads((folder / "config.json").read_text())
    inner = config
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    (folder / "config.json").write_text(json.dumps(config))


VIDEO = ("backbone", "init_args", "tokenizers", "video")
AUDIO = {  # its filters are not saved with the weights
    "class_path": "vatt.models.spectrogram.SpectrogramTokenizer",
    "init_args": {"width": 16, "grid": [2, 2**16], "patch": [4, 4], "num_mels": 2**18, "window": 2**20},
}
ENCODER = ("backbone", "init_args", "transformers", "video", "init_args")
LATER = {"class_path": "vatt.models.codebooks.PatchCodes", "init_args": {"pretrained": "/etc/passwd"}}


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ((*VIDEO, "class_path"), "os.system", "'backbone.tokenizers.video': refusing to load 'os.system'"),
        ((*VIDEO, "class_path"), "vatt.models.part.functools.partial", "this version of vatt has no"),
        ((*VIDEO, "class_path"), "vatt.models.backbone.__builtins__", "is not a model class"),
        ((*VIDEO, "class_path"), "vatt.models..os.system", "this version of vatt has no"),
        ((*VIDEO, "class_path"), "vatt.models.saving.HubModel", "is not a model class"),
        ((*VIDEO, "class_path"), ["vatt.models.backbone.Backbone"], "refusing to load"),
        ((*VIDEO, "init_args"), [1], "'backbone.tokenizers.video': 'init_args' of .* is not a dict"),
        ((*VIDEO, "init_args", "hight"), 3, "'backbone.tokenizers.video': .*hight"),
        ((*VIDEO, "init_args", "width"), "wide", "'backbone.tokenizers.video.width': expected int, got 'wide'"),
        ((*VIDEO, "init_args", "width"), None, "'backbone.tokenizers.video.width': expected int, got 'None'"),
        ((*VIDEO, "init_args", "width"), -16, "'backbone.tokenizers.video'"),
        ((*VIDEO, "init_args", "grid"), [2, 2], "config.json"),
        ((*VIDEO, "init_args", "width"), 10**30, "'backbone.*tokenizers.video.init_args.width' is 1000.*too large"),
        ((*VIDEO, "init_args", "width"), 2**30, "'backbone.tokenizers.video': a tensor of shape"),
        (("backbone", "init_args", "tokenizers", "audio"), AUDIO, "'backbone.tokenizers.audio': a tensor of shape"),
        ((*VIDEO, "init_args", "grid"), [2**20] * 3, r"shape mismatch: .*tables.0 \(.2, 16. in the file, .1048576, 16"),
        ((*ENCODER, "depth"), 10**9, "transformers.video.init_args.depth' is 1000000000, which is too large"),
        ((*ENCODER, "depth"), 60_000, "describes far more tensors than model.safetensors has"),
        ((*ENCODER, "mlp_width"), 2**31 - 8, "a tensor of shape .2147483640, 16. is too large for the size of "),
        ((*VIDEO, "init_args", "pretrained"), "bert-base", "video.init_args.pretrained' refers to external weights"),
        ((*VIDEO, "init_args", "codebook"), LATER, "codebook.init_args.pretrained' refers to external weights or code"),
        ((*VIDEO, "init_args", "config"), {"auto_map": {"AutoModel": "x--y.Z"}}, "auto_map' refers to external"),
        ((*VIDEO, "init_args", "config"), {"attn_implementation": "someone/kernel"}, "may refer to external code"),
        (("backbone",), None, "config.json"),
        (("backbone",), [], "config.json"),
        (("projection",), 3, "config.json"),
        (("format",), [], "'format': not a JSON object"),
        (("format", "num_frames"), "8", "'format': 'num_frames' has an invalid value: '8'"),
        (("format", "num_frames"), True, "'format': 'num_frames' has an invalid value: 'True'"),
        (("format", "num_frames"), -8, "'format': ClipFormat.num_frames must be positive"),
        (("format", "num_frames"), 10**8, "'format': a clip would have 307,200,000,000 values"),
        (("format", "fps"), float("nan"), "'format': 'fps' has an invalid value: 'nan'"),
        (("format", "audio_downmix"), 1, "'format': 'audio_downmix' has an invalid value: '1'"),
        (("format", "audio_overflow"), "wrap", "'format': ClipFormat.audio_overflow must be one of clip, scale"),
        (("format", "fps"), float("inf"), "'format': 'fps' has an invalid value: 'inf'"),
        (("format", "fps"), 1e-300, "'format': ClipFormat.fps must be between 0.01 and 1,000, not 1e-300"),
        (("format", "fps"), 1e308, "'format': ClipFormat.fps must be between"),
        (("format", "sample_rate"), 1, "'format': ClipFormat.sample_rate must be between 100 and 768,000, not 1"),
        (("format", "sample_rate"), 1000, "format.sample_rate or format.audio_s does not fit the audio .* 128"),
        (("format", "audio_s"), 1e-9, "'format': ClipFormat.audio_s must be between 0.01 and 86,400, not 1e-09"),
        (("format", "audio_s"), 0.3, "format.sample_rate or format.audio_s does not fit the audio .* not 307"),
        (("format", "num_frames"), 7, "format.num_frames or format.size does not fit the video tokenizer: 7 frames"),
        (("format", "size"), 40, "format.num_frames or format.size does not fit the video tokenizer: 8 frames of 40"),
        (("format", "num_words"), 7, "format.num_words does not fit the text .*: a text has up to 6 words, not 7"),
        (("format", "num_texts"), 0, "'format': ClipFormat.num_texts must be positive, not 0"),
        (("format", "crop_box"), [0, 0, 1], "'format'"),
        (("format",), {}, "'format': 'num_frames' is missing"),
        (("projection",), "x", "'projection': expected Projection, got 'x'"),
        ((*ENCODER, "heads"), -1, "'backbone.transformers.video': heads must be positive"),
        ((*ENCODER, "norm_eps"), -1, "'backbone.transformers.video': norm_eps must be positive"),
        ((*ENCODER, "rotary_base"), 0, "'backbone.transformers.video': rotary_base must be positive"),
        ((*ENCODER, "init_std"), -1, "'backbone.transformers.video': init_std must be positive"),
        ((*VIDEO, "init_args", "init_std"), -1, "'backbone.tokenizers.video': init_std must be positive"),
        (("format", "smell"), 1, "'format': .*smell"),
        (("model",), 3, "'model' is '3'"),
        (("model",), "Other", "holds a Other"),
        (("model",), "../x", "'model' is '../x'"),
        (("weights_sha256",), "0" * 64, "does not belong to config.json: its SHA-256 differs from 'weights_sha256'"),
    ],
    ids=range(58),
)  # fmt: skip
def test_invalid_configuration_values_are_reported_with_file_and_key(
    folder: Path, path: tuple[Any, ...], value: Any, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was accessed"))
    configure(folder, *path, value=value)
    with pytest.raises(InputError, match=match) as caught:
        VATT.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 1500


NAN, INF = float("nan"), float("inf")
WRONG: dict[str, list[Any]] = {  # by the type of an argument
    "float": ["x", "/etc/passwd", "0.5", [], {}, NAN, INF, None, True],
    "bool": ["x", 0, 1, 0.5, NAN, [], None],
    "int": ["1", 1.0, 2.5, NAN, True, [1], None],
    "literal": ["other", 0, None, ["learned"]],
    "optional": ["0.5", NAN, [], False],
    "tuple": [[2, 2], [2, 2, 2, 2], [2, 2, 2.0], [2, 2, "2"], [2, 2, True], 2, "222", None, {}],
    "dict": [[16], 16, {"video": "16", "audio": 16, "text": 16}, {"video": NAN, "audio": 16, "text": 16}],
}
ARGUMENTS = [
    ((*VIDEO, "init_args", "scale"), "float"), ((*VIDEO, "init_args", "dropout"), "float"),
    ((*VIDEO, "init_args", "position_norm"), "bool"), ((*VIDEO, "init_args", "positions"), "literal"),
    ((*VIDEO, "init_args", "init_std"), "optional"), ((*VIDEO, "init_args", "grid"), "tuple"),
    (("backbone", "init_args", "tokenizers", "text", "init_args", "pad_id"), "int"),
    ((*ENCODER, "norm_eps"), "float"), ((*ENCODER, "causal"), "bool"), ((*ENCODER, "norm"), "literal"),
    (("projection", "init_args", "widths"), "dict"), (("projection", "init_args", "paper"), "bool"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "kind"), ARGUMENTS, ids=range(len(ARGUMENTS)))
def test_arguments_of_wrong_types_are_refused(folder: Path, path: tuple[str, ...], kind: str) -> None:
    key = ".".join(name for name in path if name != "init_args")
    for value in WRONG[kind]:
        configure(folder, *path, value=value)
        with pytest.raises(InputError, match=rf"'{key}': expected .*, got ") as caught:
            VATT.from_pretrained(folder)
        assert str(folder / "config.json") in str(caught.value)


def test_non_finite_numbers_are_refused_at_any_depth() -> None:
    for value in (NAN, [1, INF], {"rate": [-INF]}):
        with pytest.raises(InputError, match=r"expected dict.*, got"):
            check_types(PretrainedText.__init__, {"config": {"model_type": "bert", "more": value}})
    check_types(
        PretrainedText.__init__, {"config": {"model_type": "bert", "rate": 0.5, "names": ["a"]}, "pretrained": None}
    )


def test_integers_and_lists_are_accepted_for_floats_and_tuples(folder: Path) -> None:
    for path, value in ((("scale",), 2), (("dropout",), 0), (("init_std",), None), (("grid",), [2, 2, 2])):
        configure(folder, *VIDEO, "init_args", *path, value=value)
    configure(folder, *ENCODER, "scaled", value=1)
    VATT.from_pretrained(folder)


def test_arguments_of_a_classifier_are_checked(tmp_path: Path) -> None:
    Classifier(tiny_backbone().tower("audio"), LinearClassifier(16, 3), TINY, list("abc")).save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    for key, value in (
        ("classes", "abc"), ("classes", [1, 2, 3]), ("drop_token", "x"), ("drop_token", NAN), ("drop_token", 2.5),
        ("drop_token", -1), ("per_sample", 1), ("keep_rule", "other"), ("head", [1]), ("drop_in_use", "yes"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(text)
        configure(tmp_path, key, value=value)
        with pytest.raises(InputError, match=rf"config.json.*{key}"):
            Classifier.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{", b"\xff{}", b"[" * 100_000, b'{"a":' * 100_000, b'{"a": ' + b"9" * 10_000 + b"}",
        b'"' + b"x" * 2**25,
    ],
    ids=range(8),
)  # fmt: skip
def test_damaged_configuration_is_reported(folder: Path, data: bytes) -> None:
    (folder / "config.json").write_bytes(data)
    for load in (VATT.from_pretrained, load_model, saved_format):
        with pytest.raises(InputError, match=r"config.json (is damaged|has more)"):
            load(folder)


def test_missing_keys_are_reported(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for key in ("backbone", "projection", "format"):
        (folder / "config.json").write_text(json.dumps({name: x for name, x in config.items() if name != key}))
        with pytest.raises(InputError, match=rf"config.json has no '{key}'"):
            VATT.from_pretrained(folder)


def test_weights_of_another_model_are_refused(folder: Path, good: Path) -> None:
    torch.manual_seed(1)
    tiny_model().save_pretrained(folder.parent / "other")
    shutil.copyfile(folder.parent / "other" / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(InputError, match=r"model.safetensors is damaged, or does not belong to config.json"):
        VATT.from_pretrained(folder)
    configure(folder, "weights_sha256", value=None)  # as in models that were saved without a hash
    VATT.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 7, 8, 100, 5000])
def test_truncated_weights_are_reported(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"model.safetensors is damaged"):
        VATT.from_pretrained(folder)


def test_unexpected_tensors_are_reported(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"more": torch.zeros(3)}, folder / "model.safetensors")
    configure(folder, "weights_sha256", value=None)
    with pytest.raises(InputError, match=r"does not match config.json; unexpected: more"):
        VATT.from_pretrained(folder)


def test_loading_imports_no_compiler(folder: Path) -> None:
    """Importing the compiler takes a second."""
    code = f"import sys, vatt; vatt.VATT.from_pretrained({str(folder)!r}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True, text=True)
    assert not {"torch._dynamo", "sympy"} & set(done.stdout.split())


def test_links_out_of_the_directory_are_not_followed(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.move(folder / name, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
        with pytest.raises(InputError, match=rf"{name} is a link to .*, outside its directory"):
            VATT.from_pretrained(folder)
        (folder / name).unlink()
        shutil.move(tmp_path / name, folder / name)
    model = VATT.from_pretrained(folder)
    (tmp_path / "secret").write_text("a key")
    (folder / "vocabulary" / "more.txt").symlink_to(tmp_path / "secret")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"more.txt is a link to .*secret, outside"):
        model.save_pretrained(tmp_path / "copy")
    (folder / "vocabulary" / "more.txt").unlink()
    model.save_pretrained(tmp_path / "copy")
    assert "a key" not in (tmp_path / "copy" / "README.md").read_text()


def test_links_of_a_hub_cache_are_followed(folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "1234", tmp_path / "models--a--b" / "blobs"
    (snapshot / "vocabulary").mkdir(parents=True)
    blobs.mkdir()
    for number, name in enumerate(("config.json", "model.safetensors", "vocabulary/vocabulary.json")):
        shutil.copyfile(folder / name, blobs / str(number))
        (snapshot / name).symlink_to(os.path.relpath(blobs / str(number), (snapshot / name).parent))
    model = VATT.from_pretrained(snapshot)
    model.save_pretrained(tmp_path / "copy")
    assert len(load_vocabulary(snapshot / "vocabulary")) == len(load_vocabulary(tmp_path / "copy" / "vocabulary"))


def describe(folder: Path, **values: Any) -> Path:
    (folder / "vocabulary" / "vocabulary.json").write_text(json.dumps(values))
    return folder / "vocabulary"


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kind": "sentencepiece", "model": "../secret"}, "is not a plain file name"),
        ({"kind": "sentencepiece", "model": "/etc/passwd"}, "is not a plain file name"),
        ({"kind": "sentencepiece", "model": 3}, "'model' is '3', not a str"),
        ({"kind": "sentencepiece", "model": "damaged.model"}, "damaged.model is damaged, or not a SentencePiece model"),
        ({"kind": "huggingface", "tokenizer": "bert-base-uncased"}, "'tokenizer' is .* not a directory in"),
        ({"kind": "huggingface", "tokenizer": ".."}, "'tokenizer' is .* not a directory in"),
        ({"kind": "huggingface", "tokenizer": "/etc"}, "'tokenizer' is .* not a directory in"),
        ({"kind": "huggingface", "tokenizer": "code"}, "'auto_map' refers to external files or code"),
        ({"kind": "huggingface", "tokenizer": "files"}, "'vocab_file' refers to external files or code"),
        ({"kind": "huggingface", "tokenizer": "empty"}, "cannot load a tokenizer from"),
        ({"kind": "words", "words": "abc"}, "'words' is 'abc', not a list"),
        ({"kind": "words", "words": [1]}, "'words' must be a list"),
        ({"kind": "words", "words": ["a", "a"]}, "'a' occurs twice"),
        ({"kind": "words", "words": ["a"], "unknown_id": "1"}, "'unknown_id' is '1', not a int"),
        ({"kind": "words", "words": ["a"], "unknown_id": 9}, "unknown_id 9"),
        ({"kind": ["words"]}, "unknown kind"),
        ({}, "unknown kind"),
    ],
    ids=range(17),
)
def test_vocabulary_reads_only_its_own_directory(
    folder: Path, values: dict[str, Any], match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("the network was accessed"))
    words = describe(folder, **values)
    (folder / "secret").write_bytes(b"secret")
    (words / "damaged.model").write_bytes(random.Random(0).randbytes(5000))
    for name, config in (("code", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}), ("files", {"vocab_file": "/x"})):
        (words / name).mkdir()
        (words / name / "tokenizer_config.json").write_text(json.dumps(config))
    (words / "empty").mkdir()
    with pytest.raises(InputError, match=match):
        load_vocabulary(words)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000], ids=range(4))
def test_damaged_vocabulary_file_is_reported(folder: Path, data: bytes) -> None:
    (folder / "vocabulary" / "vocabulary.json").write_bytes(data)
    with pytest.raises(InputError, match=r"vocabulary.json is damaged"):
        load_vocabulary(folder / "vocabulary")


FUZZ = """
import random, sys
from pathlib import Path
from vatt.datasets.text.sentencepiece import SentencePieceVocabulary
from vatt.errors import InputError
path, rng, counts = Path(sys.argv[1]), random.Random(0), [0, 0]
content = path.read_bytes()
for _ in range(400):
    data = bytearray(content)
    data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
    try:
        SentencePieceVocabulary(path).encode("a red ring")
        counts[0] += 1
    except InputError:
        counts[1] += 1
print(*counts)
"""


def test_damaged_sentencepiece_models_do_not_crash(tmp_path: Path) -> None:
    SentencePieceVocabulary.train(["a red ring moves left", "a blue bar moves right"] * 5, 60, tmp_path)
    argv = [sys.executable, "-c", FUZZ, str(tmp_path / "sentencepiece.model")]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    assert sum(map(int, done.stdout.split())) == 400
