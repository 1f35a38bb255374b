"""The page of a model says what is known of it, its example runs, and what people wrote stays."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from tests.conftest import TINY, tiny_backbone, tiny_model
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.models.backbone import Backbone
from vatt.models.card import is_edited
from vatt.models.heads import HierarchicalProjection, LinearClassifier, NoProjection
from vatt.models.vatt import VATT, Classifier, load_model

TRAINED = {
    "weights": "of step 400, best by val/rsum",
    "objective": "Contrastive: L = NCE + MIL-NCE.",
    "data": ["/home/somebody/private/shapes/manifest.jsonl"],
    "splits": ["train"],
    "steps": 500,
    "batch": 64,
    "minutes": 6.1,
    "train_clips": 1440,
    "val_clips": 60,
    "seed": 3,
    "gpu": None,
    "machine": "x86_64, 2 CPUs, 1 processes",
    "torch": "2.14",
}
FOUND = {"R@1": 91.7, "R@5": 99.5, "R@10": 100.0, "MedR": 1.0, "gallery": 216}
CHANCE = {"R@1": 0.46, "R@5": 2.31, "R@10": 4.63, "MedR": 108.5}


def page_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def run_example(folder: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the example of a page prints, by lines."""
    (example,) = re.findall(r"```python\n(.*?)```", page_of(folder), re.DOTALL)
    assert f'from_pretrained("{folder}")' in example
    capsys.readouterr()
    exec(example, {})
    return capsys.readouterr().out.splitlines()


def classifier(**options: Any) -> Classifier:
    return Classifier(tiny_backbone().tower("audio"), LinearClassifier(16, 3), TINY, **options).eval()


@pytest.fixture
def run(tmp_path: Path, vocabulary: WordVocabulary) -> Path:
    """The model of a run, with its history and vocabulary."""
    folder = tmp_path / "shapes" / "model"
    tiny_model().save_pretrained(folder)
    vocabulary.save(folder / "vocabulary")
    (folder / "training.json").write_text(json.dumps(TRAINED))
    return folder


def report(of: VATT, **changes: Any) -> str:
    about = {"title": "Retrieval, manifest", "protocol": "manifest", "model": of.model_hash(), "split": "test"}
    about |= {"source": "/home/somebody/private/shapes/manifest.jsonl", "clips_present": 215, "clips_expected": 216}
    return json.dumps({"text_to_video": FOUND | {"chance": CHANCE}, **about} | changes)


@pytest.mark.parametrize("shared", [False, True])
def test_the_example_runs(tmp_path: Path, vocabulary: WordVocabulary, shared: bool, capsys: Any) -> None:
    folder = tmp_path / "model"
    tiny_model(shared).save_pretrained(folder)
    assert len(run_example(folder, capsys)) == 2
    assert ("Modality-agnostic: one transformer" in page_of(folder)) is shared
    assert "vatt search" not in page_of(folder)
    vocabulary.save(folder / "vocabulary")
    load_model(folder).write_card(folder)
    assert "load_vocabulary" in page_of(folder)
    assert "vatt search" in page_of(folder)
    for line in run_example(folder, capsys):
        assert abs(float(line.removeprefix("tensor([[").partition("]")[0])) <= 1


@pytest.mark.parametrize("modalities", [("video",), ("video", "text")])
def test_the_example_runs_without_some_modalities(tmp_path: Path, modalities: tuple[str, ...], capsys: Any) -> None:
    whole = tiny_backbone()
    backbone = Backbone({m: whole.tokenizers[m] for m in modalities}, {m: whole.encoder(m) for m in modalities})
    VATT(backbone, HierarchicalProjection(dict.fromkeys(modalities, 16), 12, 8), TINY).save_pretrained(tmp_path)
    assert len(run_example(tmp_path, capsys)) == 2


def test_the_example_of_a_model_without_common_spaces_runs(tmp_path: Path, capsys: Any) -> None:
    VATT(tiny_backbone().tower("video"), NoProjection(), TINY).save_pretrained(tmp_path)
    assert run_example(tmp_path, capsys) == ["torch.Size([1, 16])"]
    assert "compared with each other" not in page_of(tmp_path)


def test_the_example_of_a_classifier_runs(tmp_path: Path, capsys: Any) -> None:
    classifier(classes=["dog", "rain", "bell"]).save_pretrained(tmp_path)
    lines = run_example(tmp_path, capsys)
    assert sorted(line.split()[0] for line in lines) == ["bell", "dog", "rain"]
    assert sum(float(line.split()[1]) for line in lines) == pytest.approx(1)
    classifier().save_pretrained(tmp_path)
    assert sorted(line.split()[0] for line in run_example(tmp_path, capsys)) == ["0", "1", "2"]


def test_it_tells_how_the_model_came_about(run: Path) -> None:
    model = VATT.from_pretrained(run)
    model.save_pretrained(run)
    page = page_of(run)
    for line in (
        "| objective | Contrastive: L = NCE + MIL-NCE. |",
        "| data | shapes/manifest.jsonl |",
        "| part | split train |",
        "| clips | 1440 for training, 60 for validation |",
        "| steps | 500 |",
        "| seed | 3 |",
        "Clips: video 8 frames at 8 fps, 32 x 32 pixels; audio 1 s at 1024 Hz; text 6 words.",
    ):
        assert line in page, line
    assert "somebody" not in page
    assert "GPU" not in page
    assert "## Results" not in page
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    assert f"| all, with heads | | | {parameters:.2f} million |" in page


def test_reports_of_this_model_and_of_no_other_are_told(run: Path) -> None:
    model = VATT.from_pretrained(run)
    (run.parent / "report.json").write_text(report(model))
    (run.parent / "older.json").write_text(report(model, model="0123456789abcdef", clips_present=7))
    (run.parent / "broken.json").write_text("{")
    (run.parent / "list.json").write_text("[1]")
    model.save_pretrained(run)
    page, data = page_of(run), ModelCard.load(run / "README.md").data
    assert "| text to video | 91.7 (0.46) | 99.5 (2.31) | 100 (4.63) | 1 (108.5) |" in page
    assert "shapes/manifest.jsonl, split test, 215 of 216 clips" in page
    assert "7 of 216" not in page
    results = {result.metric_type: result.metric_value for result in data.eval_results}
    assert results["recall_at_1"] == 91.7
    assert data.eval_results[0].dataset_name == "shapes/manifest.jsonl"
    assert data.model_name == "shapes"
    assert data.license is None
    assert not is_edited(page)


def test_a_test_of_a_classifier_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "esc" / "model"
    classifier(classes=["dog", "rain", "bell"]).save_pretrained(folder)
    tuned = {"data": {"manifest": "esc/clips.jsonl", "part": "all but fold 1"}, "multi_label": False}
    tuned |= {"pretrained": "runs/grid/model", "pretraining": {"steps": 1200}}
    (folder / "training.json").write_text(json.dumps({**TRAINED, "data": None, "objective": None, "finetuning": tuned}))
    tested = {"title": "Classification of audio", "top-1 (%)": 72.75, "data": "a/esc/clips.jsonl", "part": "fold 1"}
    tested |= {"protocol": "audio, 10 windows a clip", "clips present": "80 of 80"}
    tested |= {"fine-tuning": {**TRAINED, "data": None, "objective": None}}
    (folder.parent / "test.json").write_text(json.dumps(tested))
    (folder.parent / "before.json").write_text(json.dumps(tested | {"top-1 (%)": 11.0, "fine-tuning": {"steps": 1}}))
    Classifier.from_pretrained(folder).write_card(folder)
    page, data = page_of(folder), ModelCard.load(folder / "README.md").data
    assert "3 classes, such as dog, rain, bell." in page
    assert "| objective | cross-entropy of the classes |" in page
    assert "| initialized from | grid/model, of 1200 steps |" in page
    assert "| part | all but fold 1 |" in page
    assert "| top-1 (%) | 72.75 |" in page
    assert "11.0" not in page
    assert data.pipeline_tag == "audio-classification"
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [("accuracy", 72.75)]


def test_pages_that_were_edited_stay_and_go_along(run: Path, tmp_path: Path) -> None:
    model = VATT.from_pretrained(run)
    model.save_pretrained(run)
    model.save_pretrained(tmp_path / "plain")
    page = run / "README.md"
    page.write_text(page_of(run).replace("Not stated.", "CC BY 4.0."))
    assert is_edited(page_of(run))
    assert is_edited(page_of(tmp_path / "plain") + "and more")
    model.save_pretrained(run)
    model.write_card(run)
    assert "CC BY 4.0." in page_of(run)
    model.save_pretrained(tmp_path / "copy")
    assert "CC BY 4.0." in page_of(tmp_path / "copy")
    with torch.no_grad():
        model.projection.text_to_vt.bias.add_(1)
    model.save_pretrained(tmp_path / "changed")  # another model: what was said of the first is not true of it
    assert "CC BY 4.0." not in page_of(tmp_path / "changed")


def test_what_was_known_of_a_run_goes_along_twice(run: Path, tmp_path: Path) -> None:
    (run.parent / "report.json").write_text(report(VATT.from_pretrained(run)))
    VATT.from_pretrained(run).save_pretrained(tmp_path / "once")
    VATT.from_pretrained(tmp_path / "once").save_pretrained(tmp_path / "twice")
    assert "91.7 (0.46)" in page_of(tmp_path / "once")
    assert "91.7 (0.46)" in page_of(tmp_path / "twice")


def test_a_page_of_another_model_is_replaced(tmp_path: Path) -> None:
    """Other line ends are no edit."""
    tiny_model().save_pretrained(tmp_path)
    page = tmp_path / "README.md"
    page.write_bytes(page.read_bytes().replace(b"\n", b"\r\n"))
    tiny_model(shared=True).save_pretrained(tmp_path)
    assert "Modality-agnostic" in page_of(tmp_path)
