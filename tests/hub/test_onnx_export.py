"""What is written as ONNX gives what the model gives, in onnxruntime, for any number of clips."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import TINY, WORDS, tiny_backbone, tiny_batch, tiny_model
from tests.hub.official.huggingface_models import frames, make
from vatt.datasets.text.vocabularies import WordVocabulary, load_vocabulary
from vatt.errors import InputError
from vatt.hub import onnx_export
from vatt.hub.official.video import convert
from vatt.hub.onnx_export import export_onnx
from vatt.models.backbone import Backbone
from vatt.models.heads import JointProjection, LinearClassifier
from vatt.models.language import LinearText, PretrainedText, PretrainedWords
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer
from vatt.models.transformer import Encoder, Transformer
from vatt.models.vatt import VATT, Classifier

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")

T5 = {"model_type": "t5", "vocab_size": 12, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
BERT = {"model_type": "bert", "vocab_size": 12, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def run(file: Path, raw: torch.Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: raw.numpy()}), strict=True))


def close(found: np.ndarray, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(torch.from_numpy(found), wanted, rtol=1e-4, atol=1e-5)


def hearing(**options: Any) -> Classifier:
    """The smallest model."""
    backbone = Backbone({"audio": AudioTokenizer(8, length=8)}, {"audio": Transformer(8, 1, 1)})
    return Classifier(backbone, LinearClassifier(8, 3), TINY, **options).eval()


def reading(tokenizer: Any, encoder: Encoder) -> VATT:
    """A model whose only modality is text."""
    backbone = Backbone({"text": tokenizer}, {"text": encoder})
    return VATT(backbone, JointProjection({"text": backbone.width("text")}, 8), TINY).eval()


@pytest.mark.slow
@torch.no_grad()
def test_a_classifier_is_written_with_what_one_must_know(tmp_path: Path) -> None:
    model = hearing(classes=["a", "b", "c"])
    (made,) = export_onnx(model, tmp_path / "onnx")
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["audio.onnx", "onnx.json"]
    assert made.file == tmp_path / "onnx" / "audio.onnx"
    assert made.difference is not None
    assert made.difference < 1e-4
    for clips in (1, 5):
        sound = torch.rand(clips, TINY.num_samples) * 2 - 1
        found, wanted = run(made.file, sound), model(audio=sound)
        assert sorted(found) == ["logits", "probabilities"]
        for name, value in found.items():
            close(value, wanted[name])
    about = json.loads((tmp_path / "onnx" / "onnx.json").read_text())
    assert about["model_hash"] == model.model_hash()
    assert about["classes"] == ["a", "b", "c"]
    assert about["encoders"]["audio"]["input"]["shape"] == ["batch", TINY.num_samples]
    assert about["encoders"]["audio"]["outputs"] == {"logits": ["batch", 3], "probabilities": ["batch", 3]}
    # Nothing of the machine that wrote it.
    assert str(Path(onnx_export.__file__).parents[2]).encode() not in made.file.read_bytes()

    other = hearing()
    other.head.linear.weight.zero_()
    with pytest.raises(InputError, match="holds the export of another model"):
        export_onnx(other, tmp_path / "onnx")


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shared", [False, True])
def test_encoders_give_the_unit_vectors_of_the_model(tmp_path: Path, shared: bool, vocabulary: WordVocabulary) -> None:
    tiny_model(shared).save_pretrained(tmp_path / "model")
    vocabulary.save(tmp_path / "model" / "vocabulary")
    model = VATT.from_pretrained(tmp_path / "model")
    made = {one.modality: one for one in export_onnx(model, tmp_path / "onnx")}
    assert {m: one.outputs for m, one in made.items()} == {
        "video": {"video_audio": 12, "video_text": 8},
        "audio": {"video_audio": 12},
        "text": {"video_text": 8},
    }
    assert load_vocabulary(tmp_path / "onnx" / "vocabulary").encode("red") == vocabulary.encode("red")
    for clips in (1, 7):
        batch = tiny_batch(clips)
        batch["text"] = batch["text"][:, 0]
        batch["text"][0] = 0  # padding alone
        for modality, one in made.items():
            found = run(one.file, batch[modality])
            for space in one.outputs:
                close(found[space], getattr(model, f"encode_{modality}")(batch[modality], space))
            assert np.allclose(np.linalg.norm(found[space], axis=1), 1, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_model_without_common_spaces_gives_features(tmp_path: Path) -> None:
    """Such as a converted video encoder, whose first layer contains the normalization of pixels."""
    make(tmp_path, "videomae")
    model, _ = convert(tmp_path)
    (exported,) = export_onnx(model.eval(), tmp_path / "onnx")
    assert exported.outputs == {"features": 24}
    video = frames().float() * 2 / 255 - 1
    close(run(exported.file, video)["features"], model(video=video)["video"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tokenizer", "encoder"),
    [
        pytest.param(
            lambda: TextTokenizer(8, len(WORDS) + 2, 6, embedding_width=6, positions=False, agg_in_embedding=True),
            lambda: Transformer(8, 1, 2, bias=False, scaled=False, norm="mixed", relative=(32, 64)),
            id="t5-style",
        ),
        pytest.param(lambda: TextTokenizer(8, len(WORDS) + 2, 6), lambda: LinearText(8, 12), id="linear"),
        pytest.param(
            lambda: PretrainedWords(config=T5, length=6), lambda: PretrainedText(config=T5, pooling="mean"), id="t5"
        ),
        pytest.param(
            lambda: PretrainedWords(config=BERT, length=6),
            lambda: PretrainedText(config=BERT, pooling="agg"),
            id="bert",
        ),
    ],
)
def test_other_text_encoders(tmp_path: Path, tokenizer: Any, encoder: Any) -> None:
    """Exporting compares; here with texts that end early."""
    if "Pretrained" in str(tokenizer.__code__.co_names):
        pytest.importorskip("transformers")
    model = reading(tokenizer(), encoder())
    (made,) = export_onnx(model, tmp_path)
    text = torch.tensor([[3, 4, 5, 6, 7, 8], [3, 4, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0], [3, 4, 0, 0, 0, 0]])
    found = run(made.file, text)["video_text"]
    with torch.no_grad():
        close(found, model.encode_text(text))
    assert np.allclose(found[1], found[3], atol=1e-5)
    assert not np.allclose(found[0], found[1], atol=1e-3)


@pytest.mark.slow
@torch.no_grad()
def test_a_spectrogram_is_part_of_the_graph(tmp_path: Path) -> None:
    tokenizer = SpectrogramTokenizer(
        8, grid=(2, 4), patch=(4, 4), sample_rate=16_000, num_mels=16, window=512, hop=256, official_order=True
    )
    backbone = Backbone({"audio": tokenizer}, {"audio": Transformer(8, 1, 2)})
    format = dataclasses.replace(TINY, sample_rate=16_000, audio_s=0.128)
    model = Classifier(backbone, LinearClassifier(8, 3, multi_label=True), format).eval()
    (made,) = export_onnx(model, tmp_path)
    time_s = torch.arange(format.num_samples) / 16_000
    quiet, silent = 1e-3 * torch.sin(2 * torch.pi * 1000 * time_s), torch.zeros(format.num_samples)
    sound = torch.stack([quiet, silent, torch.rand(format.num_samples) * 2 - 1])
    found, wanted = run(made.file, sound), model(audio=sound)
    close(found["logits"], wanted["logits"])
    close(found["probabilities"], wanted["probabilities"])


@pytest.mark.slow
@torch.no_grad()
def test_larger_clips_and_dropped_tokens(tmp_path: Path) -> None:
    """Positions on another grid than the tables', and the places that are always dropped, are constants."""
    format = dataclasses.replace(TINY, num_frames=12, size=48)
    model = Classifier(
        tiny_backbone().tower("video"), LinearClassifier(16, 3), format, drop_token=0.5, drop_in_use=True
    ).eval()
    (made,) = export_onnx(model, tmp_path)
    video = torch.rand(4, 12, 3, 48, 48) * 2 - 1
    close(run(made.file, video)["logits"], model(video=video)["logits"])
    with pytest.raises(Exception, match="invalid dimensions"):
        run(made.file, video[:, :8])


def test_what_is_not_equal_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", 1e-12)
    with pytest.raises(InputError, match=r"audio.onnx is not equal to the model: logits of 1 clips differs by .*e-0"):
        export_onnx(hearing(), tmp_path)
    assert not list(tmp_path.iterdir())


class Unspeakable(Transformer):
    def forward(self, x: torch.Tensor, *args: Any) -> Any:
        if x.abs().max() > 1e6:  # the graph depends on values
            x = x.clamp(-1, 1)
        return super().forward(x, *args)


def test_what_cannot_be_said_is_named(tmp_path: Path) -> None:
    model = hearing()
    model.backbone.transformers["audio"] = Unspeakable(8, 1, 1).eval()
    with pytest.raises(InputError, match=r"audio encoder \(AudioTokenizer and Unspeakable\) cannot be said in ONNX"):
        export_onnx(model, tmp_path)
    assert not list(tmp_path.iterdir())


def test_models_that_are_not_in_use_are_refused(tmp_path: Path) -> None:
    for model in (hearing().train(), hearing().double(), hearing().to("meta")):
        with pytest.raises(InputError, match=r"model.eval\(\).cpu\(\).float\(\)"):
            export_onnx(model, tmp_path)


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime files are written and said not to be compared; without onnx there are none."""
    real = importlib.util.find_spec
    gone = {"onnxruntime"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else real(name, *rest))
    (made,) = export_onnx(hearing(), tmp_path)
    assert made.difference is None
    assert json.loads((tmp_path / "onnx.json").read_text())["encoders"]["audio"]["difference_to_pytorch"] is None
    gone.add("onnxscript")
    with pytest.raises(ImportError, match=r'onnxscript: pip install "vatt\[onnx\]"'):
        export_onnx(hearing(), tmp_path)
