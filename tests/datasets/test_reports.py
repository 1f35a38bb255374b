"""Reports on the data before a training starts."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY
from vatt.datasets.datamodule import ClipDataModule
from vatt.datasets.labelled import LabelledDataModule
from vatt.datasets.manifest import read_manifest
from vatt.datasets.sources import Source
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.errors import ManifestError


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(rows: list[dict[str, Any]], name: str = "clips") -> str:
        path = tmp_path / f"{name}.jsonl"
        full = [{"path": f"{i}.mp4"} | row for i, row in enumerate(rows)]
        for row in full:
            (tmp_path / row["path"]).touch()
        path.write_text("".join(json.dumps(row) + "\n" for row in full))
        return str(path)

    return write


def set_up(manifest: str | None, **options: Any) -> ClipDataModule:
    data = ClipDataModule(manifest, TINY, batch_size=2, num_workers=0, **options)
    data.setup("fit")
    return data


@pytest.mark.parametrize("name", ["validation", "valid", "dev", "Val", "eval", "val"])
def test_names_of_splits_and_unused_rows_are_printed(write: Any, capsys: Any, name: str) -> None:
    splits = ["train"] * 5 + [name] * 2 + ["test"] * 3 + [None] * 2
    manifest = write([{"split": split, "label": "a"} for split in splits])
    data = set_up(manifest)
    assert [clip.path[-5:] for clip in data.val_clips] == ["5.mp4", "6.mp4"]
    used = f"{manifest}: 5 training clips (split 'train'), 2 validation clips (split '{name}')"
    unused = "2 rows without a split"
    assert capsys.readouterr().out == f"{used}; not used: 3 rows of split 'test', {unused}\n"
    labelled = LabelledDataModule(manifest, base=TINY.to_dict())
    labelled.setup("fit")
    assert (len(labelled.val_clips), len(labelled.test_clips)) == (2, 3)
    assert capsys.readouterr().out == f"{used}, 3 test clips (split 'test'); not used: {unused}\n"


def test_unused_rows_of_synonyms_are_reported_by_commands(write: Any) -> None:
    manifest = write([{"split": split} for split in ("val", "validation", "dev", "train", "dev")])
    message = r"split 'val' \(1 rows\) is used; not used: 2 rows of split 'dev', 1 row of split 'validation'$"
    with pytest.warns(UserWarning, match=message):
        assert len(read_manifest(manifest, split="val")) == 1


def test_a_fraction_of_few_files_may_hold_out_none(write: Any, capsys: Any) -> None:
    manifest = write([{"label": "a"}] * 3)
    assert not len(set_up(manifest).val_clips)
    reason = "data.val_fraction 0.05 of so few files holds out none"
    assert capsys.readouterr().out == f"{manifest}: 3 training clips, no validation clips ({reason})\n"
    data = LabelledDataModule(manifest, base=TINY.to_dict(), val_fraction=0.05)
    data.setup("fit")
    assert f"3 training clips, no validation clips ({reason}), no test clips" in capsys.readouterr().out


def test_a_split_of_another_name_is_reported_by_commands(write: Any) -> None:
    manifest = write([{"split": split} for split in ("train", "Validation", None)])
    with pytest.warns(UserWarning, match=r"clips.jsonl: split 'Validation' \(1 rows\) is used as 'val'"):
        assert len(read_manifest(manifest, split="val")) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_manifest(manifest, split="Validation")) == 1


def test_an_ambiguous_split_names_the_options(write: Any) -> None:
    manifest = write([{"split": split} for split in ("train", "dev", "valid")])
    message = "clips.jsonl: split 'val' is ambiguous: column 'split' holds 'dev' and 'valid'"
    with pytest.raises(ManifestError, match=f"{message}; set data.train_split, val_split"):
        set_up(manifest)
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest, split="val")
    assert len(set_up(manifest, val_split="dev").val_clips) == 1


def test_missing_validation_clips_are_printed(write: Any, capsys: Any) -> None:
    set_up(write([{}] * 3), val_fraction=0.0)
    assert "3 training clips, no validation clips\n" in capsys.readouterr().out
    set_up(write([{}] * 40), val_fraction=0.5)
    assert " validation clips (held out)\n" in capsys.readouterr().out


def test_files_in_two_splits_are_reported(write: Any, tmp_path: Path) -> None:
    rows = [
        {"path": f"{i % 3}.mp4", "id": str(i), "label": "a", "start_s": 4.0 * i, "end_s": 4.0 * i + 3} for i in range(6)
    ]
    rows = [row | {"split": "train" if i < 3 else "test"} for i, row in enumerate(rows)]
    rows[5] |= {"path": "../" + tmp_path.name + "/2.mp4", "start_s": 9.0}  # the same file, during the training clip
    manifest = write(rows)
    with pytest.warns(UserWarning, match="3 of 3 test clips are from files of the training clips, 1 of which overlap"):
        LabelledDataModule(manifest, base=TINY.to_dict()).setup("fit")
    with pytest.warns(UserWarning, match="3 of 3 validation clips are from files of the training clips"):
        set_up(manifest, val_split="test")
    with warnings.catch_warnings():  # folds by file
        warnings.simplefilter("error")
        segments = [{"path": f"{i % 3}.mp4", "start_s": 5.0 * i, "end_s": 5.0 * i + 5} for i in range(6)]
        manifest = write([row | {"id": str(i), "label": "a", "x_fold": i % 3} for i, row in enumerate(segments)])
        LabelledDataModule(manifest, base=TINY.to_dict(), fold=1).setup("fit")


def test_files_in_splits_of_two_sources_are_reported(write: Any) -> None:
    """Files 0 to 5 and 3 to 8."""
    first = write([{"split": "train" if i < 4 else "val"} for i in range(6)], "first")
    second = write([{"split": "train" if i > 2 else "val", "path": f"{i + 3}.mp4"} for i in range(6)], "second")
    with (
        pytest.warns(UserWarning, match="second.jsonl: 2 of 3 validation clips are also validation clips of another"),
        pytest.warns(UserWarning, match="1 of 3 validation clips are from files of the training clips, 1 of which"),
    ):
        data = set_up(None, sources={"a": Source(first), "b": Source(second)})
    assert sorted(clip.path[-5:] for clip in data.val_clips) == ["3.mp4", "4.mp4", "5.mp4"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"x_caption": "a red ring", "x_year": 2020, "x_lang": "en"}] * 3,
            "none of 3 training clips has a text .*If column 'x_caption' has the captions, name it 'text'",
        ),
        ([{"text": "ein roter Kreis"}] * 2 + [{"text": "a ring"}], "2 of 3 texts have no word .*'ein roter Kreis'"),
        (
            [{"words": [{"word": "\u043a\u043e\u0442", "start": 0, "end": 1}]}],
            "1 of 1 texts have no word of data.vocabulary",
        ),
    ],
)
def test_missing_and_unknown_texts_are_reported(
    write: Any, tmp_path: Path, rows: list[dict[str, Any]], message: str
) -> None:
    WordVocabulary(["a", "red", "ring"]).save(tmp_path / "vocabulary")
    data = set_up(write(rows), vocabulary=str(tmp_path / "vocabulary"), val_fraction=0.0)
    with pytest.warns(UserWarning, match=message):
        data.report_texts()


def test_texts_without_a_vocabulary_are_reported(write: Any) -> None:
    data = set_up(write([{"text": "a ring"}, {}]), val_fraction=0.0)
    with pytest.warns(
        UserWarning, match="1 of 2 training clips have texts, which are ignored because data.vocabulary is not set"
    ):
        data.report_texts()


def test_known_texts_are_not_reported(write: Any, tmp_path: Path, capsys: Any) -> None:
    WordVocabulary(["a", "red", "ring"]).save(tmp_path / "vocabulary")
    data = set_up(
        write([{"text": "a nice ring"}, {"x_caption": "a red one"}]),
        vocabulary=str(tmp_path / "vocabulary"),
        val_fraction=0.0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data.report_texts()
    assert "1 of 2 training clips have no text. If column 'x_caption'" in capsys.readouterr().out
