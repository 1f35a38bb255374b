from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

from vatt.cli.training_options import SaveConfig, TrainingParser


def save(folder: Path, batch_size: int) -> None:
    """Save a configuration as a resumed training does."""
    parser = TrainingParser()
    parser.add_argument("--batch_size", type=int)
    parser.add_argument("--ckpt_path", type=str)
    config = parser.parse_args([f"--batch_size={batch_size}", "--ckpt_path=last"])
    trainer = SimpleNamespace(default_root_dir=folder, ckpt_path="last.ckpt")
    SaveConfig(parser, config).save_config(trainer, None, "fit")  # type: ignore[arg-type]


def test_a_resumed_training_reports_changed_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path, 4)
    assert capsys.readouterr().out == ""
    save(tmp_path, 8)
    assert capsys.readouterr().out == f"changed since {tmp_path / 'config.yaml'} was written: batch_size 4 -> 8\n"


@pytest.mark.parametrize("content", [b"a: [b\n", b"\xff\xfe\x00", b"a: \x00"])
def test_a_damaged_old_configuration_does_not_prevent_resuming(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    with pytest.warns(UserWarning, match=f"{file} is damaged: changes of options .* are not reported"):
        save(tmp_path, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save(tmp_path, 4)
    assert "batch_size: 4" in file.read_text()
