"""Official checkpoints without any: weights of ours, written under the official names and read back."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vatt.errors import InputError
from vatt.hub.official.files import read_variables
from vatt.hub.official.sizes import convert
from vatt.hub.official.weights import export, load
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection, JointProjection, LinearClassifier
from vatt.models.language import LinearText
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT, Classifier
from vatt.structures import ClipFormat

FORMAT = ClipFormat(num_frames=8, fps=10.0, size=32, sample_rate=1280, num_words=6)
WIDTH, HEAD_WIDTH = 16, 8


def transformer(**options: object) -> Transformer:
    return Transformer(WIDTH, 2, 2, 24, 0.1, HEAD_WIDTH, **options)  # type: ignore[arg-type]


def video_tower(**options: object) -> VideoTokenizer:
    return VideoTokenizer(WIDTH, (2, 2, 2), (4, 16, 16), 0.1, **options)  # type: ignore[arg-type]


def specific(text: str = "t5", audio: str = "wave", joint: bool = False) -> VATT:
    """Every kind of tower the official code has."""
    words = {"vocabulary_size": 12, "length": 6, "dropout": 0.1, "frozen": True}
    embedded = {**words, "embedding_width": 10, "projection_bias": False}
    texts = {
        "t5": (
            TextTokenizer(WIDTH, positions=False, agg_in_embedding=True, **embedded),
            transformer(bias=False, scaled=False, norm="mixed", relative=(32, 64)),
        ),
        "bert": (TextTokenizer(WIDTH, **embedded), transformer()),
        "linear": (TextTokenizer(10, positions=False, **{**words, "dropout": 0.0}), LinearText(10, 20, True)),
    }
    sounds = {
        "wave": (AudioTokenizer(WIDTH, 8, 128, 0.1), transformer()),
        "spectrogram": (
            SpectrogramTokenizer(WIDTH, (2, 4), (4, 5), num_mels=20, dropout=0.1, official_order=True),
            transformer(bias=False),
        ),
    }
    towers = {"video": (video_tower(), transformer()), "audio": sounds[audio], "text": texts[text]}
    return finished(Backbone({m: t for m, (t, _) in towers.items()}, {m: e for m, (_, e) in towers.items()}), joint)


def agnostic() -> VATT:
    tokenizers = {
        "video": video_tower(pre_projection=True),
        "audio": AudioTokenizer(WIDTH, 8, 128, 0.1, pre_projection=True),
        "text": TextTokenizer(WIDTH, 12, 6, dropout=0.1, embedding_width=10, frozen=True),
    }
    return finished(Backbone(tokenizers, transformer(), post_width=20))


def finished(backbone: Backbone, joint: bool = False) -> VATT:
    widths = {m: backbone.width(m) for m in backbone.modalities}
    head = JointProjection(widths, 14) if joint else HierarchicalProjection(widths, 14, 9)
    is_spectrogram = isinstance(backbone.tokenizers["audio"], SpectrogramTokenizer)
    model = VATT(backbone, head, replace(FORMAT, sample_rate=10_240) if is_spectrogram else FORMAT)
    return scrambled(model)


def scrambled(model: torch.nn.Module) -> torch.nn.Module:
    """No weight at the value it begins with: norms are told apart from each other, and statistics from none."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                value.copy_(torch.randn_like(value) * 0.3 + (1.0 if name.endswith("var") else 0.0))
                if name.endswith("var"):
                    value.abs_().add_(0.1)
    return model.eval()


def classifier(modality: str, pre: bool) -> Classifier:
    tokenizer = video_tower(pre_projection=pre) if modality == "video" else AudioTokenizer(WIDTH, 8, 128, 0.1)
    backbone = Backbone({modality: tokenizer}, {modality: transformer()}, 20 if pre else None)
    head = LinearClassifier(backbone.width(modality), 5, multi_label=modality == "audio")
    return scrambled(Classifier(backbone, head, FORMAT))


MODELS = {
    "specific": specific,
    "bert": lambda: specific(text="bert"),
    "linear text, joint head": lambda: specific(text="linear", joint=True),
    "spectrogram": lambda: specific(audio="spectrogram"),
    "agnostic": agnostic,
    "fine-tuned video": lambda: classifier("video", pre=False),
    "fine-tuned video of an agnostic model": lambda: classifier("video", pre=True),
    "fine-tuned audio": lambda: classifier("audio", pre=False),
}


def inputs(model: VATT | Classifier) -> dict[str, torch.Tensor]:
    raw = {
        "video": torch.randn(2, 8, 3, 32, 32),
        "audio": torch.randn(2, 1024 if "Spectrogram" not in str(model) else 9 * 1024),
        "text": torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 11]]),
    }
    return {modality: raw[modality] for modality in model.backbone.modalities}


@pytest.fixture(params=MODELS, ids=lambda name: name.replace(" ", "_"))
def model(request: pytest.FixtureRequest) -> VATT | Classifier:
    return MODELS[request.param]()


def words_of(model: VATT | Classifier) -> int | None:
    """What has to be said of texts: their length, where there are no positions."""
    texts = [m for m in model.backbone.modalities if m == "text" and model.backbone.tokenizers[m].positions is None]
    return 6 if texts else None


def test_a_checkpoint_becomes_the_model_it_was_written_from(model: VATT | Classifier, tmp_path: Path) -> None:
    np.savez(tmp_path / "official.npz", **{f"weight/{path}": value for path, value in export(model).items()})
    again, report = convert(read_variables(tmp_path / "official.npz"), HEAD_WIDTH, words_of(model))
    assert type(again) is type(model)
    assert not again.training
    assert report.ignored == report.missing == report.unknown == []
    raw = inputs(model)
    for name, value in model(**raw).items():
        assert torch.equal(again(**raw)[name], value), name


def test_what_it_is_made_of_is_read_from_the_shapes() -> None:
    again, _ = convert(export(specific()))  # the T5-style tower says how wide heads are
    assert again.backbone.encoder("video").blocks[0].attention.heads == 2
    assert again.format == ClipFormat(num_frames=8, fps=10.0, size=32, sample_rate=1280, num_words=16)
    assert convert(export(agnostic()), HEAD_WIDTH)[0].format.num_words == 6
    finetuned = convert(export(classifier("video", pre=False)), HEAD_WIDTH)[0].format
    assert (finetuned.num_frames, finetuned.fps, finetuned.size) == (8, 12.5, 32)
    sound = convert(export(classifier("audio", pre=False)), HEAD_WIDTH)[0].format
    assert (sound.duration_s, sound.num_samples) == (6.4, 1024)


def test_what_is_missing_unknown_or_of_another_shape_is_named() -> None:
    whole = export(specific())
    less = {path: value for path, value in whole.items() if not path.endswith("layers/1/mha/v/kernel")}
    with pytest.raises(InputError, match=r"missing: backbone\.transformers\.\w+\.blocks\.1\.attention\.qkv\.weight"):
        convert(less)
    with pytest.raises(InputError, match=r"unknown: _base_layer/vid_backbone/_base/extra \(3,\)"):
        convert(whole | {"_base_layer/vid_backbone/_base/extra": np.zeros(3)})
    wrong = whole | {"_head_layer/_bridge_heads/0/aud_to_va/bias": np.zeros(3, np.float32)}
    with pytest.raises(InputError, match=r"aud_to_va/bias gives projection.audio_to_va.bias the shape \(3,\)"):
        convert(wrong)
    with pytest.raises(InputError, match=r"neither a modality-specific.*begin with dense"):
        convert({"dense/kernel": np.zeros((3, 3))})
    with pytest.raises(InputError, match="two AGG tokens"):
        convert(export(specific(text="bert")) | {"_base_layer/txt_backbone/agg_embedding": np.zeros(10)}, HEAD_WIDTH)


def test_how_wide_heads_are_is_said_or_asked_for() -> None:
    with pytest.raises(InputError, match=r"16 wide, which no released model is.*set head_width"):
        convert(export(agnostic()))
    with pytest.raises(InputError, match="queries of 16 values do not divide into heads of 5"):
        convert(export(agnostic()), 5)
    for wrong in (0, -16):
        with pytest.raises(InputError, match=f"head_width must be at least 1, not {wrong}"):
            convert(export(agnostic()), wrong)
    with pytest.raises(InputError, match="num_words must be at least 1"):
        convert(export(specific()), num_words=0)
    with pytest.raises(InputError, match="the model's texts have 6 words"):
        convert(export(agnostic()), HEAD_WIDTH, num_words=7)


@pytest.mark.parametrize(
    ("made", "gone", "says"),
    [
        (agnostic, "pre_proj/audio", "unified_transformer/pre_proj/audio/kernel"),
        (agnostic, "post_proj", "post_proj/video/kernel"),
        (lambda: classifier("video", pre=True), "_base/pre_proj", "no _base/pre_proj/kernel"),
        (lambda: classifier("video", pre=True), "_base/post_proj", "no _base/post_proj/kernel"),
        (specific, "aud_", "no audio tower"),
        (specific, "txt_", "no text tower"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_no_other_architecture(made: Callable, gone: str, says: str) -> None:
    some = {path: value for path, value in export(made()).items() if gone not in path}
    with pytest.raises(InputError, match=says):
        convert(some, HEAD_WIDTH)


def test_shapes_that_do_not_go_together_are_named() -> None:
    values = export(classifier("video", pre=False))
    with pytest.raises(InputError, match="_ops/cls/kernel takes features 9 wide, and the tower's are 16"):
        convert(values | {"_ops/cls/kernel": np.zeros((9, 5), np.float32)}, HEAD_WIDTH)
    with pytest.raises(InputError, match=r"mha/q/kernel has the shape \(2, 8, 16\), not 2 axes"):
        convert(values | {"_base/tx/layers/0/mha/q/kernel": np.zeros((2, 8, 16), np.float32)}, HEAD_WIDTH)
    with pytest.raises(InputError, match="which is no convolution's"):
        convert(values | {"_base/voxel_to_patch/kernel": np.zeros((3, 16), np.float32)}, HEAD_WIDTH)


def test_numbers_that_are_not_finite_are_named() -> None:
    values = export(specific())
    path = "_base_layer/aud_backbone/_base/agg_embedding"
    with pytest.raises(InputError, match=f"{path}: a number is NaN"):
        convert(values | {path: np.full(WIDTH, np.nan, np.float32)})


def test_two_variables_of_one_path_are_refused(tmp_path: Path) -> None:
    names = [f"weight/model/layer_with_weights-{i}/_base/agg_embedding/.ATTRIBUTES/VARIABLE_VALUE" for i in (0, 1)]
    np.savez(tmp_path / "a.npz", **{name: np.zeros(3) for name in names})
    with pytest.raises(InputError, match="1 variables have the path of another one"):
        read_variables(tmp_path / "a.npz")


def test_what_the_official_code_does_not_have_is_not_exported() -> None:
    widths = {"video": WIDTH}
    for tokenizer, encoder, says in (
        (VideoTokenizer(WIDTH, scale=2.0), transformer(), "a scale of raw values"),
        (VideoTokenizer(WIDTH, position_norm=False), transformer(), "positions without a norm"),
        (VideoTokenizer(WIDTH), transformer(norm="rms"), "a transformer of this form"),
        (VideoTokenizer(WIDTH), transformer(relative=(8, 16)), "a transformer of this form"),
    ):
        model = VATT(Backbone({"video": tokenizer}, {"video": encoder}), HierarchicalProjection(widths), FORMAT)
        with pytest.raises(InputError, match=f"video: the official code does not have {says}"):
            export(model)
    backbone = specific().backbone
    head = HierarchicalProjection({m: backbone.width(m) for m in backbone.modalities}, paper=True)
    with pytest.raises(InputError, match="no HierarchicalProjection of this form"):
        export(VATT(backbone, head, FORMAT))


def test_a_fine_tuned_spectrogram_has_the_released_clips() -> None:
    """6.4 s at 24 kHz, which fill the tables; the filters are still those of 48 kHz (released code)."""
    tokenizer = SpectrogramTokenizer(WIDTH, dropout=0.1, official_order=True)
    backbone = Backbone({"audio": tokenizer}, {"audio": transformer(bias=False)})
    model = Classifier(backbone, LinearClassifier(WIDTH, 5, multi_label=True), ClipFormat())
    again, _ = convert(export(scrambled(model)), HEAD_WIDTH)
    assert (again.format.num_samples, again.format.sample_rate) == (153_600, 24_000)
    assert again.backbone.tokenizers["audio"].patchify(torch.zeros(1, 153_600)).grid == tokenizer.grid
    assert again.backbone.tokenizers["audio"].sample_rate == 48_000
    assert again.head.dropout.p == 0.0


def test_a_failed_load_leaves_the_model_as_it_was() -> None:
    model = specific()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = export(specific())
    other.pop("_base_layer/vid_backbone/_base/agg_embedding")
    with pytest.raises(InputError, match=r"backbone\.agg\.video"):
        load(model, other)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        read_variables(tmp_path / "none.npz")
    with pytest.raises(FileNotFoundError, match=r"no \.index file"):
        read_variables(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"ckpt-3\.index is missing"):
        read_variables(tmp_path / "ckpt-3")
    (tmp_path / "ckpt-3.index").write_bytes(b"nothing")
    with pytest.raises(FileNotFoundError, match=r"has no ckpt-3\.data-00000-of-00001"):
        read_variables(tmp_path)
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="no key that begins with weight/"):
        read_variables(tmp_path / "other.npz")
    whole = (tmp_path / "other.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (b"nothing", b"", whole[: len(whole) // 2], (tmp_path / "array.npy").read_bytes()):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"broken\.npz cannot be read"):
            read_variables(tmp_path / "broken.npz")


WRITE = """
import sys
import numpy as np, tensorflow as tf

root = tf.train.Checkpoint()
for key, value in np.load(sys.argv[1]).items():
    node = root
    *parts, last = ["model", "layer_with_weights-0", *key.removeprefix("weight/").split("/")]
    for part in parts:
        if not hasattr(node, part):
            setattr(node, part, tf.Module())
        node = getattr(node, part)
    setattr(node, last, tf.Variable(value))
root.optimizer = tf.Module()
root.optimizer.iter = tf.Variable(500_000)
root.save(sys.argv[2])
"""


@pytest.mark.slow
def test_tensorflow_checkpoints(tmp_path: Path) -> None:
    """As Keras writes them: under layer_with_weights-0, with an optimizer's counter."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    values = export(specific())
    np.savez(tmp_path / "values.npz", **{f"weight/{path}": value for path, value in values.items()})
    (tmp_path / "ckpt").mkdir()
    # In a process of its own: TensorFlow and PyTorch in one can crash.
    arguments = [sys.executable, "-c", WRITE, str(tmp_path / "values.npz"), str(tmp_path / "ckpt" / "ckpt")]
    subprocess.run(arguments, check=True, capture_output=True)
    found = read_variables(tmp_path / "ckpt" / "ckpt-1.index")
    assert all(np.array_equal(found[path], value) for path, value in values.items())
    _, report = convert(found)
    assert sorted(report.ignored) == ["_CHECKPOINTABLE_OBJECT_GRAPH", "optimizer/iter", "save_counter"]
    assert read_variables(tmp_path / "ckpt").keys() == found.keys()
    assert read_variables(tmp_path / "ckpt" / "ckpt-1.data-00000-of-00001").keys() == found.keys()
    (tmp_path / "ckpt" / "ckpt-1.index").write_bytes(b"nothing" * 100)
    with pytest.raises(InputError, match=r"ckpt-1 cannot be read: \S+"):
        read_variables(tmp_path / "ckpt")


def test_without_tensorflow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "tensorflow.py").write_text("raise ImportError('no tensorflow here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ImportError, match=r'pip install "vatt\[tensorflow\]" \(no tensorflow here\)'):
        read_variables(tmp_path)
