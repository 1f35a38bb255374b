"""vatt convert, vatt onnx and vatt flops, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import ROOT, TINY
from tests.hub.official.huggingface_models import features, frames, make, processed, write_processor
from tests.hub.official.test_conversion import agnostic, classifier, specific
from vatt.cli.main import main
from vatt.cli.training import build_pretraining
from vatt.datasets.text.vocabularies import load_vocabulary
from vatt.hub.official.weights import export
from vatt.models.backbone import Backbone
from vatt.models.heads import LinearClassifier
from vatt.models.tokenizers import AudioTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT, Classifier


def written(path: Path, values: dict[str, np.ndarray]) -> Path:
    np.savez(path, **{f"weight/{name}": value for name, value in values.items()})
    return path


def test_a_checkpoint_is_converted_and_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = specific()
    counters = {"optimizer/iter": np.zeros(1), "save_counter": np.zeros(1)}
    official = written(tmp_path / "official.npz", export(model) | counters)
    (tmp_path / "words.txt").write_text("<pad>\n</s>\n<unk>\na\nred\n")
    arguments = ["--vocabulary", str(tmp_path / "words.txt"), "--num_words", "6", "--size", "48"]
    assert main(["convert", str(official), str(tmp_path / "model"), *arguments]) == 0
    printed = capsys.readouterr().out
    assert "modality-specific: video, audio, text" in printed
    assert "video  16 wide, places (2, 2, 2), 2 blocks of 2 heads of 8 (no variable says" in printed
    assert "text   16 wide, places (6,), 2 blocks of 2 heads of 8\n" in printed
    assert f"variables: loaded {len(export(model))}, ignored 2, missing 0, unknown 0" in printed
    assert "ignored: 1 of the optimizer" in printed
    assert "ignored: save_counter" in printed
    assert "no --vocabulary" not in printed
    again = VATT.from_pretrained(tmp_path / "model")
    assert again.format.size == 48
    video = torch.randn(1, 8, 3, 48, 48)
    assert torch.equal(again(video=video)["video_va"], model(video=video)["video_va"])
    assert load_vocabulary(tmp_path / "model" / "vocabulary").encode("A red ring.") == [3, 4, 2]


def test_a_fine_tuned_checkpoint_keeps_its_class_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official = written(tmp_path / "official.npz", export(classifier("video", pre=True)))
    (tmp_path / "classes.txt").write_bytes("\ufeffa\r\nb\nc\nd\u2028x\ne\n".encode())
    arguments = [
        str(official),
        str(tmp_path / "model"),
        "--head_width",
        "8",
        "--classes",
        str(tmp_path / "classes.txt"),
    ]
    assert main(["convert", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "fine-tuned: video, 5 classes" in printed
    assert "vatt.Classifier.from_pretrained" in printed
    assert "clips are 32 x 32; the paper's fine-tuned numbers are at --size 320" in printed
    assert Classifier.from_pretrained(tmp_path / "model").classes == ["a", "b", "c", "d\u2028x", "e"]
    (tmp_path / "classes.txt").write_text("a\n")
    assert main(["convert", *arguments]) == 2
    assert "has 1 lines, but the model has 5 classes" in capsys.readouterr().err


def test_a_model_of_hugging_face_keeps_its_normalization(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = make(tmp_path / "videomae", "videomae")
    write_processor(tmp_path / "videomae", "videomae", image_mean=0.5, image_std=0.5)
    assert main(["convert", str(tmp_path / "videomae"), str(tmp_path / "model")]) == 0
    statement = "normalized with mean (0.5, 0.5, 0.5) and std (0.5, 0.5, 0.5), as in preprocessor_config.json"
    assert statement in capsys.readouterr().out
    assert statement in (tmp_path / "model" / "README.md").read_text()
    clip = frames()
    expected = features(theirs, "videomae", processed(tmp_path / "videomae", "videomae", clip))
    with torch.no_grad():
        tokens = VATT.from_pretrained(tmp_path / "model").backbone("video", clip.float() * 2 / 255 - 1).tokens
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_heads_that_no_variable_tells_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = export(agnostic())
    assert main(["convert", str(written(tmp_path / "a.npz", values)), str(tmp_path / "model")]) == 2
    assert "no variable says how wide its heads are: set head_width" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "model"), "--head_width", "8"]) == 0
    printed = capsys.readouterr().out
    assert "modality-agnostic: video, audio, text" in printed
    assert "no --vocabulary was given" in printed
    (tmp_path / "model" / "vocabulary").mkdir()
    assert main(["convert", str(tmp_path / "a.npz"), str(tmp_path / "model"), "--head_width", "8"]) == 2
    assert "holds the vocabulary of another model" in capsys.readouterr().err


def test_saved_configuration_of_a_run_is_read() -> None:
    demo = str(ROOT / "configs/demo.yaml")
    cli = build_pretraining(["--config", demo, "--data.vocabulary=null", "--ckpt_path=null", "--weights_only=null"])
    assert cli.model.backbone.modalities == ("video", "audio", "text")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--classes", "x"], "no classes"),
        (["--size", "40"], "do not fit the model: 8 frames of 40 x 40 cannot be cut"),
        (["--fps", "0"], "--fps must lie in (0, inf), not 0.0"),
        (["--vocabulary", "."], ".: Is a directory"),
        (["--vocabulary", "latin.txt"], "latin.txt is not UTF-8"),
        (["--fps", "7"], "do not fit the model: a waveform is"),
        (["--vocabulary", "words.txt"], "line 1 must be <pad>, not 'a'"),
        (["--vocabulary", "many.txt"], "has 20 lines, the model has embeddings for 12 words"),
    ],
)
def test_files_that_do_not_belong_are_refused(
    tmp_path: Path, options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("a\nb\n")
    (tmp_path / "many.txt").write_text("<pad>\n<unk>\n" + "".join(f"w{i}\n" for i in range(18)))
    (tmp_path / "latin.txt").write_bytes("<pad>\n<unk>\ncafé\n".encode("latin-1"))
    written(tmp_path / "official.npz", export(specific()))
    assert main(["convert", "official.npz", "model", *options]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_what_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(tmp_path / "ckpt-1.index"), str(tmp_path / "model")]) == 2
    assert "ckpt-1.index is missing" in capsys.readouterr().err


def test_operations_of_a_configuration(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["flops", "--config", "configs/pretrain_mbs.yaml"]) == 0
    printed = capsys.readouterr().out
    # Half of the tokens, as the objective says; all of them pass the first layer.
    assert "1568" in printed
    assert "784" in printed
    assert "277.22" in printed
    assert "279.12 million" in printed
    assert main(["flops", "--config", "configs/pretrain_mbs.yaml", "--drop", "0", "--num_frames", "64"]) == 0
    assert "3136" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--drop", "1"], "--drop must lie in [0, 1), not 1.0"),
        (["--size", "100"], "16 frames of 100 x 100 cannot be cut"),
        (["--num_frames", "0"], "--num_frames must lie in [1, inf), not 0"),
    ],
)
def test_wrong_clips_are_refused(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["flops", "--config", "configs/demo.yaml", *options]) == 2
    assert says in capsys.readouterr().err


def test_a_configuration_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["flops", "--config", "nothere.yaml"]) == 2
    assert "vatt flops: error: there is no configuration 'nothere.yaml'" in capsys.readouterr().err


@pytest.mark.slow
def test_encoders_are_written_as_onnx(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    backbone = Backbone({"audio": AudioTokenizer(8, length=8)}, {"audio": Transformer(8, 1, 1)})
    Classifier(backbone, LinearClassifier(8, 3), TINY).save_pretrained(tmp_path / "model")
    assert main(["onnx", str(tmp_path / "model"), "--output", str(tmp_path / "onnx")]) == 0
    printed = capsys.readouterr().out
    assert f"{tmp_path}/onnx/audio.onnx: logits (3), probabilities (3); equal to " in printed
    assert "not compared" not in printed
    assert json.loads((tmp_path / "onnx" / "onnx.json").read_text())["encoders"]["audio"]["file"] == "audio.onnx"


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["onnx", str(tmp_path / "empty"), "--output", str(tmp_path / "onnx")]) == 2
    assert "config.json is missing" in capsys.readouterr().err
