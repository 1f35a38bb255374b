from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vatt.errors import InputError
from vatt.evaluation.plots import plot_curves, read_logs


def log(folder: Path, version: int, lines: str) -> None:
    path = folder / "logs" / f"version_{version}" / "metrics.csv"
    path.parent.mkdir(parents=True)
    path.write_text(lines)


def test_curves_go_on_over_a_resumption(tmp_path: Path) -> None:
    log(tmp_path, 0, "epoch,step,train/loss,val/x\n0,4,3.0,\n0,9,2.0,\n0,9,,50.0\n0,14,1.5,\n")
    log(tmp_path, 1, "step,train/loss,val/x\n14,1.4,\n19,1.0,70.0\n")
    assert read_logs(tmp_path) == {
        "train/loss": [(5, 3.0), (10, 2.0), (15, 1.4), (20, 1.0)],
        "val/x": [(10, 50.0), (20, 70.0)],
    }
    log(tmp_path, 2, "step,train/loss,val/x\n4,9.0,\n")  # a new beginning is not drawn on with the old end
    assert read_logs(tmp_path) == {"train/loss": [(5, 9.0)]}


def test_what_was_logged_under_other_names_is_drawn_or_named(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log(tmp_path, 0, "step,lr\n4,3.0\n")
    with pytest.raises(InputError, match="no loss, only lr"):
        plot_curves(tmp_path, tmp_path / "curves.svg")
    log(tmp_path, 1, "step,train/jepa\n4,3.0\n9,2.0\n")
    plot_curves(tmp_path, tmp_path / "curves.svg")
    assert "<!-- jepa -->" in (tmp_path / "curves.svg").read_text()


def test_versions_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for version in (10, 9):
        log(tmp_path, version, f"step,x\n0,{version}\n")
    assert read_logs(tmp_path) == {"x": [(1, 10.0)]}


def test_a_fine_tuning_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log(tmp_path, 0, "step,train/loss,val/top1\n4,3.0,\n9,2.0,60.0\n")
    plot_curves(tmp_path, tmp_path / "curves.svg")
    said = (tmp_path / "curves.svg").read_text()
    assert all(text in said for text in ("loss", "top-1", "Validation clips"))


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    lines = "step,train/video_audio,train/video_text,val/text_to_video_R@1,val/text_to_video_gallery\n"
    log(tmp_path, 0, lines + "4,3.0,2.0,10.0,20\n9,2.0,1.0,60.0,20\n")
    plot_curves(tmp_path, tmp_path / "deep" / "curves.png")
    picture = Image.open(tmp_path / "deep" / "curves.png")
    assert picture.size[0] > 1000
    assert len(picture.convert("RGB").getcolors(1 << 20)) > 50


def test_a_folder_without_logs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is it the folder of a run"):
        read_logs(tmp_path)
