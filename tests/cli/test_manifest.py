from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vatt.cli.main import main
from vatt.datasets.manifest import read_manifest
from vatt.resources import dataset_scripts

TABLE = "filename,fold,category\na.wav,1,dog\nb.wav,2,rain\n"


@pytest.fixture
def esc50(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two recordings and their table, as the current directory."""
    (tmp_path / "audio").mkdir()
    for name in "ab":
        (tmp_path / f"audio/{name}.wav").write_bytes(b"0")
    (tmp_path / "esc50.csv").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_script_of_the_dataset_is_run(esc50: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = sys.argv
    assert main(["manifest", "esc50", "esc50.csv", "audio", "--fold", "2", "--output", "clips.jsonl"]) == 0
    clips = read_manifest(esc50 / "clips.jsonl")
    assert [(clip.id, clip.labels, clip.split) for clip in clips] == [
        ("a", ("dog",), "train"),
        ("b", ("rain",), "test"),
    ]
    assert "clips.jsonl: 2 rows (train 1, test 1)" in capsys.readouterr().out
    assert sys.argv is argv


def test_errors_of_the_script_are_one_sentence(esc50: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = sys.argv
    assert main(["manifest", "esc50", "esc50.csv", "audio", "--fold", "3", "--output", "clips.jsonl"]) == 2
    assert capsys.readouterr().err == "vatt manifest: error: --fold 3: esc50.csv has the folds 1, 2\n"
    assert main(["manifest", "esc50", "none.csv", "audio", "--output", "clips.jsonl"]) == 2
    assert capsys.readouterr().err == "vatt manifest: error: none.csv: No such file or directory\n"
    assert sys.argv is argv


def test_help_lists_the_datasets_with_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out.partition("datasets:\n")[2].splitlines()
    assert [line.split()[:2] for line in printed] == [[name, "Convert"] for name in dataset_scripts()]
    assert max(map(len, printed)) <= 120
    with pytest.raises(SystemExit) as stopped:
        main(["manifest", "grid", "--help"])
    assert stopped.value.code == 0
    assert "usage: vatt manifest grid [-h]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "usage: vatt manifest DATASET ..."),
        (
            ["kinetcs", "x"],
            "vatt manifest: error: there is no script for the dataset 'kinetcs'; did you mean kinetics?",
        ),
        (["-"], "there is no script for the dataset '-'; choose from audioset, esc50, grid, "),
    ],
)
def test_unknown_datasets(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["manifest", *argv]) == 2
    assert message in capsys.readouterr().err
