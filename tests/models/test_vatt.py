from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError

from tests.conftest import TINY, tiny_backbone, tiny_batch, tiny_model
from vatt.datasets.text.vocabularies import WordVocabulary, load_vocabulary
from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection, LinearClassifier
from vatt.models.vatt import VATT, Classifier


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    batch = tiny_batch(3)
    return {"video": batch["video"], "audio": batch["audio"], "text": batch["text"][:, 0]}


@pytest.mark.parametrize("shared", [False, True])
def test_a_saved_model_gives_the_same_vectors(tmp_path: Path, inputs: dict, shared: bool) -> None:
    model = tiny_model(shared)
    model.save_pretrained(tmp_path / "model")
    again = VATT.from_pretrained(tmp_path / "model")
    assert not again.training
    assert again.format == model.format
    for name, value in model(**inputs).items():
        assert torch.equal(value, again(**inputs)[name]), name
    assert again.model_hash() == model.model_hash()
    said = json.loads((tmp_path / "model" / "config.json").read_text())
    assert said["inputs"]["video"].startswith("(B, T, 3, H, W)")
    assert said["format"]["num_frames"] == TINY.num_frames
    written = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert written == ["README.md", "config.json", "model.safetensors"]


def test_model_hash_changes_with_any_weight_and_any_setting(tmp_path: Path) -> None:
    model = tiny_model()
    before = model.model_hash()
    with torch.no_grad():
        model.projection.text_to_vt.bias[0] += 1e-6
    after = model.model_hash()
    assert before != after
    model.format = type(model.format)(**{**model.format.to_dict(), "fps": 9.0})
    assert model.model_hash() not in (before, after)


def test_encoding_gives_unit_vectors_in_the_asked_space(inputs: dict) -> None:
    model = tiny_model()
    assert model.encode_video(inputs["video"]).shape == (3, 8)
    assert model.encode_video(inputs["video"], space="video_audio").shape == (3, 12)
    assert model.encode_audio(inputs["audio"]).shape == (3, 12)
    vectors = model.encode_text(inputs["text"])
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3), atol=1e-5)
    with pytest.raises(ValueError, match="no text in the video_audio space"):
        model.encode_text(inputs["text"], space="video_audio")


def test_a_batch_of_two_is_two_batches_of_one(inputs: dict) -> None:
    model = tiny_model()
    together = model(**inputs)
    for i in range(3):
        alone = model(**{name: x[i : i + 1] for name, x in inputs.items()})
        for name, value in alone.items():
            assert torch.allclose(value[0], together[name][i], atol=1e-5), name


def test_what_is_missing_or_does_not_fit_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model in .*: config.json is missing"):
        VATT.from_pretrained(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["projection"]["init_args"]["video_text"] = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"text_to_vt.weight"):
        VATT.from_pretrained(tmp_path)


def tiny_classifier(modality: str = "video", **options: object) -> Classifier:
    whole = tiny_backbone()
    backbone = Backbone({modality: whole.tokenizers[modality]}, {modality: whole.encoder(modality)})
    return Classifier(backbone, LinearClassifier(16, 3, multi_label=modality == "audio"), TINY, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_classifier_is_saved_and_loaded(tmp_path: Path, inputs: dict, modality: str) -> None:
    model = tiny_classifier(modality, classes=["a", "b", "c"]).eval()
    model.save_pretrained(tmp_path / "model")
    again = Classifier.from_pretrained(tmp_path / "model")
    assert again.classes == ["a", "b", "c"]
    found, expected = again(**{modality: inputs[modality]}), model(**{modality: inputs[modality]})
    assert sorted(found) == sorted((modality, "logits", "probabilities"))
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert torch.allclose(found["logits"], model.head.linear(found[modality]), atol=1e-6)
    with pytest.raises(InputError, match=f"this classifier takes {modality}, not nothing"):
        again()
    with pytest.raises(InputError, match=r"holds a Classifier, not a VATT: load it with vatt.Classifier.from_pretr"):
        VATT.from_pretrained(tmp_path / "model")


def test_droptoken_is_off_in_fine_tuning_unless_it_is_asked_for(inputs: dict) -> None:
    def features(model: Classifier) -> torch.Tensor:
        return model(video=inputs["video"])["video"]

    plain = tiny_classifier().train()
    assert torch.equal(features(plain), features(plain))
    dropping = tiny_classifier(drop_token=0.5).train()
    assert not torch.equal(features(dropping), features(dropping))
    assert torch.equal(features(dropping.eval()), features(dropping))


def test_classes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 names for 3 classes"):
        tiny_classifier(classes=["a", "b"])
    with pytest.raises(ValueError, match="one modality, not video, audio, text"):
        Classifier(tiny_backbone(), LinearClassifier(16, 3), TINY)


def test_longer_and_larger_clips_are_taken(inputs: dict) -> None:
    model = tiny_model()
    out = model(video=torch.randn(2, 16, 3, 48, 64), audio=torch.randn(2, 2048))
    assert out["video_va"].shape == out["audio_va"].shape == (2, 12)
    image = model(video=torch.randn(1, 1, 3, 32, 32).expand(1, 4, 3, 32, 32))
    assert image["video_vt"].isfinite().all()


def test_a_model_takes_its_vocabulary_along(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "first")
    WordVocabulary(["a", "b"]).save(tmp_path / "first" / "vocabulary")
    VATT.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    assert load_vocabulary(tmp_path / "second" / "vocabulary").encode("b a") == [3, 2]
    VATT.from_pretrained(tmp_path / "second").save_pretrained(tmp_path / "second")  # onto itself


def test_a_model_is_pushed_to_the_hub_and_read_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: dict
) -> None:
    """The Hub is a folder here: what is uploaded, and from where a model is downloaded, is all there is to see."""
    hub = tmp_path / "hub"

    class Api:
        def __init__(self, **_: object) -> None: ...

        def create_repo(self, repo_id: str, **_: object) -> object:
            return type("Repo", (), {"repo_id": repo_id})()

        def upload_folder(self, *, repo_id: str, folder_path: Path, ignore_patterns: list | None, **_: object) -> str:
            left = shutil.ignore_patterns(*(ignore_patterns or []))
            shutil.copytree(folder_path, hub / repo_id, ignore=left, dirs_exist_ok=True)
            return "committed"

    def download(repo_id: str, filename: str, **_: object) -> str:
        if not (hub / repo_id / filename).is_file():
            raise LocalEntryNotFoundError("there is none")
        return str(hub / repo_id / filename)

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    monkeypatch.setattr("vatt.models.saving.hf_hub_download", download)
    model = tiny_model()
    assert model.push_to_hub("someone/tiny") == "committed"
    written = {path.name for path in (hub / "someone/tiny").iterdir()}
    assert written == {"README.md", "config.json", "model.safetensors"}
    card = (hub / "someone/tiny" / "README.md").read_text()
    assert "library_name: vatt" in card
    assert 'vatt.VATT.from_pretrained("someone/tiny")' in card

    # A page that was edited on the Hub stays.
    (hub / "someone/tiny" / "README.md").write_text(card + "\nTrained on my own videos.\n")
    with pytest.warns(UserWarning, match=r"someone/tiny has a README.md that was not written by vatt"):
        model.push_to_hub("someone/tiny")
    assert "my own videos" in (hub / "someone/tiny" / "README.md").read_text()

    asked = {}

    def snapshot(name: str, **options: object) -> str:
        asked.update(options)
        return str(hub / name)

    monkeypatch.setattr("vatt.models.directories.snapshot_download", snapshot)
    again = VATT.from_pretrained("someone/tiny", revision="v1")
    assert asked["revision"] == "v1"
    assert "model.safetensors" in asked["allow_patterns"]
    assert torch.equal(again(**inputs)["video_vt"], model(**inputs)["video_vt"])


def test_a_name_that_is_neither_folder_nor_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model in runs/a/model: there is no such folder"):
        VATT.from_pretrained("runs/a/model")

    for error, reason in (
        (
            LocalEntryNotFoundError("offline"),
            r"and no model of this name on the Hugging Face Hub \(offline or unknown\)$",
        ),
        (OSError(28, "No space left on device"), r"and downloading it from .* failed: No space left on device$"),
    ):

        def fails(*_: object, error: Exception = error, **__: object) -> str:
            raise error

        monkeypatch.setattr("vatt.models.directories.snapshot_download", fails)
        with pytest.raises(FileNotFoundError, match=f"no model at someone/model, {reason}"):
            VATT.from_pretrained("someone/model")


def test_models_of_version_0_1_are_read(tmp_path: Path, inputs: dict) -> None:
    """They name no kind, and none of the options that came later."""
    model = tiny_model()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]

    def older(node: object) -> None:
        if isinstance(node, dict):
            for name in ("pre_projection", "position_norm", "norm", "relative", "post_width", "paper", "head_width"):
                node.pop(name, None)
            for value in node.values():
                older(value)

    older(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(VATT.from_pretrained(tmp_path)(**inputs)["text_vt"], model(**inputs)["text_vt"])


def test_modalities_that_a_model_does_not_have_are_named(inputs: dict) -> None:
    whole = tiny_backbone()
    backbone = Backbone({"video": whole.tokenizers["video"]}, {"video": whole.encoder("video")})
    model = VATT(backbone, HierarchicalProjection({"video": 16}, 12, 8), TINY)
    with pytest.raises(InputError, match="this model takes video, not text"):
        model(text=inputs["text"])
    assert model() == {}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_folder_is_named(tmp_path: Path, name: str) -> None:
    tiny_model().save_pretrained(tmp_path)
    (tmp_path / name).write_bytes(b"nothing" * 10)
    with pytest.raises(InputError, match="is damaged"):
        VATT.from_pretrained(tmp_path)


def test_options_of_later_versions_change_neither_hash_nor_loading(tmp_path: Path) -> None:
    model = tiny_classifier().eval()
    assert set(model.config(brief=True)) == {"model", "backbone", "head", "format"}
    assert tiny_classifier(per_sample=True).config(brief=True)["per_sample"] is True
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["per_sample"], config["keep_rule"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert Classifier.from_pretrained(tmp_path).model_hash() == model.model_hash()


def test_ids_beyond_the_vocabulary_are_named() -> None:
    with pytest.raises(ValueError, match="ids run from 0 to 10, not from 3 to 9999"):
        tiny_model()(text=torch.tensor([[3, 9999]]))


def test_scores_keep_their_digits_where_the_backbone_has_few(inputs: dict) -> None:
    torch.manual_seed(0)
    model = Classifier(tiny_backbone().tower("video"), LinearClassifier(16, 5), TINY).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(video=inputs["video"])
    assert out["logits"].dtype == torch.float32
    assert not torch.equal(out["logits"], out["logits"].bfloat16().float())
    assert (
        Classifier(tiny_backbone().tower("video"), LinearClassifier(16, 5), TINY)
        .double()(video=inputs["video"].double())["logits"]
        .dtype
        == torch.float64
    )


def test_tokens_may_be_dropped_in_use_and_always_the_same(inputs: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = tiny_backbone().tower("video"), LinearClassifier(16, 5), TINY
    whole = Classifier(*made, drop_token=0.5).eval()
    less = Classifier(*made, drop_token=0.5, drop_in_use=True).eval()
    first = less(video=inputs["video"])["logits"]
    assert not torch.allclose(first, whole(video=inputs["video"])["logits"])
    alone = torch.cat([less(video=clip[None])["logits"] for clip in inputs["video"]])
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-5)
    less.save_pretrained(tmp_path)
    assert torch.equal(Classifier.from_pretrained(tmp_path)(video=inputs["video"])["logits"], first)
