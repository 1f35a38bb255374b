"""AudioSet and Kinetics from their own files to a number, by the shipped configurations, on miniatures."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT, TINY, beeps, numbered_frames, tiny_backbone
from vatt.cli.main import main
from vatt.media.encoding import write_media
from vatt.models.heads import HierarchicalProjection
from vatt.models.tokenizers import AudioTokenizer, VideoTokenizer
from vatt.models.vatt import VATT, Classifier

SHORT = [
    "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--trainer.precision=32-true",
    "--trainer.enable_progress_bar=false", "--model.optimization.warmup_steps=1", "--data.num_workers=0",
    "--data.batch_size=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the patches of the paper, and little else."""
    backbone = tiny_backbone()
    backbone.tokenizers["video"] = VideoTokenizer(16, grid=(8, 14, 14))
    backbone.tokenizers["audio"] = AudioTokenizer(16, length=1200)
    widths = dict.fromkeys(backbone.modalities, 16)
    folder = tmp_path_factory.mktemp("model")
    backbone = type(backbone)(dict(backbone.tokenizers), dict(backbone.transformers))
    VATT(backbone, HierarchicalProjection(widths, 12, 8), TINY).save_pretrained(folder)
    return folder


def prepare(name: str, *arguments: object) -> None:
    command = [sys.executable, str(ROOT / "data" / name / "prepare.py"), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_kinetics(pretrained: Path, tmp_path: Path) -> None:
    classes = ("abseiling", "playing the flute")
    for split, count in (("train", 4), ("val", 2)):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for i in range(count):
                name, label = f"{split}{i:0>{11 - len(split)}}", classes[i % 2]
                writer.writerow([label, name, 10, 20, split])
                if (split, i) != ("val", 1):  # one clip could not be had any more
                    path = tmp_path / "media" / label / f"{name}_000010_000020.mp4"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_media(path, numbered_frames(40, 48, 64), 12.5)
    manifest, run = tmp_path / "clips.jsonl", tmp_path / "run"
    lists = (tmp_path / "train.csv", tmp_path / "val.csv")
    prepare("kinetics", *lists, tmp_path / "media", "--output", manifest)
    given = [
        "--config", str(ROOT / "configs" / "finetune_kinetics400.yaml"), f"--data.manifest={manifest}",
        f"--model.pretrained={pretrained}", f"--run.folder={run}",
    ]  # fmt: skip
    assert main(["finetune", "fit", *given, *SHORT]) == 0
    assert main(["finetune", "test", *given, *SHORT]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["clips present"] == "1 of 1"
    assert report["not found when the manifest was made"] == "1 clips of all splits, in clips.missing.csv"
    assert "4 x 3 views a clip, logits averaged; 32 frames at 12.5 fps, 320 pixels" in report["protocol"]
    assert report["top-1 (%)"] in (0.0, 100.0)
    model = Classifier.from_pretrained(run / "model")
    assert model.classes == list(classes)
    assert (model.format.size, model.format.fps) == (320, 12.5)


def test_audioset(pretrained: Path, tmp_path: Path) -> None:
    labels = {"/m/09x0r": "Speech", "/m/0dgw9r": "Human sounds", "/t/dd00003": "Male speech, man speaking"}
    rows = [["index", "mid", "display_name"], *([i, *item] for i, item in enumerate(labels.items()))]
    with (tmp_path / "class_labels_indices.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (tmp_path / "media").mkdir()
    for subset, count in (("balanced_train", 4), ("eval", 3)):
        lines = ["# Segments csv created Sun Mar  5 10:54:31 2017", "# num_ytids=1", "# YTID, start_seconds, …"]
        for i in range(count):
            name = f"{subset[:4]}-{i:0>6}"
            mids = list(labels)[: 1 + i % 2] if i else ["/m/0dgw9r"]
            lines.append(f'{name}, 30.000, 40.000, "{",".join(mids)}"')
            write_media(tmp_path / "media" / f"{name}_30.000.m4a", None, 25, beeps(7.0, 24_000), 24_000)
        (tmp_path / f"{subset}_segments.csv").write_text("\n".join(lines))
    manifest, run = tmp_path / "clips.jsonl", tmp_path / "run"
    lists = (tmp_path / "balanced_train_segments.csv", tmp_path / "eval_segments.csv")
    names = tmp_path / "class_labels_indices.csv"
    prepare("audioset", *lists, tmp_path / "media", "--classes", names, "--output", manifest)
    (tmp_path / "names.txt").write_text("\n".join(labels.values()))
    given = [
        "--config", str(ROOT / "configs" / "finetune_audioset.yaml"), f"--data.manifest={manifest}",
        f"--model.pretrained={pretrained}", f"--run.folder={run}", f"--data.classes={tmp_path}/names.txt",
    ]  # fmt: skip
    assert main(["finetune", "fit", *given, *SHORT]) == 0
    assert main(["finetune", "test", *given, *SHORT]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["clips present"] == "3 of 3"
    assert "4 windows a clip, logits averaged; 6.4 s at 24000 Hz" in report["protocol"]
    # No evaluation clip is of a man speaking: the class is reported, and in no mean.
    assert (report["without positives"], report["classes measured"]) == (1, 2)
    assert {"mAP (%)", "AUC (%)", "d′"} <= report.keys()
    with (run / "per_class.csv").open() as file:
        table = {row["class"]: row for row in csv.DictReader(file)}
    assert table["Male speech, man speaking"]["AP"] == ""
    assert np.isfinite(float(table["Speech"]["AUC"]))


def test_imagenet(pretrained: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("n01440764", "n01443537"):
            (tmp_path / "media" / split / name).mkdir(parents=True)
            for i in range(count):
                picture = Image.fromarray(rng.integers(0, 255, (60, 80, 3), dtype=np.uint8))
                picture.save(tmp_path / "media" / split / name / f"{name}_{split}{i}.JPEG")
    manifest, run = tmp_path / "clips.jsonl", tmp_path / "run"
    prepare("imagenet", tmp_path / "media", "--output", manifest)
    given = [
        "--config", str(ROOT / "configs" / "finetune_imagenet.yaml"), f"--data.manifest={manifest}",
        f"--model.pretrained={pretrained}", f"--run.folder={run}", "--data.format.size=64",
    ]  # fmt: skip
    assert main(["finetune", "fit", *given, *SHORT]) == 0
    assert main(["finetune", "test", *given, *SHORT]) == 0
    report = json.loads((run / "test.json").read_text())
    assert report["clips present"] == "4 of 4"
    assert "4 frames at" in report["protocol"]


def test_ucf101(pretrained: Path, tmp_path: Path) -> None:
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Basketball\n")
    names = [f"{label}/v_{label}_g{group:0>2}_c01.avi" for label in ("Archery", "Basketball") for group in (1, 2)]
    for name in names:
        path = tmp_path / "media" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_media(path, numbered_frames(20, 48, 64), 12.5)
    for fold in (1, 2):
        test = [name for name in names if f"_g0{fold}_" in name]
        (lists / f"testlist0{fold}.txt").write_text("\n".join(test))
        number = {"Archery": 1, "Basketball": 2}
        train = [f"{name} {number[name.split('/')[0]]}" for name in names if name not in test]
        (lists / f"trainlist0{fold}.txt").write_text("\n".join(train))
    manifest = tmp_path / "clips.jsonl"
    prepare("ucf101", lists, tmp_path / "media", "--output", manifest)
    for fold in (1, 2):
        given = [
            "--config", str(ROOT / "configs" / "finetune_ucf101.yaml"), f"--data.manifest={manifest}",
            f"--model.pretrained={pretrained}", f"--run.folder={tmp_path / str(fold)}", f"--data.fold={fold}",
            "--data.format.size=64", *SHORT, "--data.batch_size=2",
        ]  # fmt: skip
        assert main(["finetune", "fit", *given]) == 0
        assert main(["finetune", "test", *given]) == 0
        report = json.loads((tmp_path / str(fold) / "test.json").read_text())
        assert (report["clips present"], report["part"]) == ("2 of 2", f"fold {fold}")
        assert report["trained on"] == f"2 clips of {manifest}, all but fold {fold}"
    # The second fold's clips are those that the first fold's model has learned.
    assert main(["finetune", "test", *given, f"--run.folder={tmp_path / '1'}"]) == 2


def test_esc10(tmp_path: Path) -> None:
    lines = ["filename,fold,target,category"]
    (tmp_path / "media").mkdir()
    for fold in (1, 2, 3):
        for target, label in enumerate(("dog", "rain")):
            lines.append(f"{fold}-{target}-A-{target}.wav,{fold},{target},{label}")
            with wave.open(str(tmp_path / "media" / lines[-1].split(",")[0]), "wb") as file:
                file.setparams((1, 2, 16_000, 0, "NONE", ""))
                file.writeframes((beeps(5.0, 16_000) * 32_000).astype(np.int16).tobytes())
    (tmp_path / "esc10.csv").write_text("\n".join(lines))
    manifest, run = tmp_path / "clips.jsonl", tmp_path / "run"
    prepare("esc50", tmp_path / "esc10.csv", tmp_path / "media", "--output", manifest)
    given = [
        "--config", str(ROOT / "configs" / "finetune_esc10.yaml"), f"--data.manifest={manifest}", "--data.fold=2",
        f"--run.folder={run}", f"--data.cache={tmp_path / 'cache'}",
    ]  # fmt: skip
    assert main(["finetune", "fit", *given, *SHORT]) == 0
    assert main(["finetune", "test", *given, *SHORT]) == 0
    report = json.loads((run / "test.json").read_text())
    assert (report["clips present"], report["part"]) == ("2 of 2", "fold 2")
    assert "4 windows a clip, logits averaged; 4 s at 16000 Hz" in report["protocol"]
    assert report["not found when the manifest was made"].startswith("0 clips")
