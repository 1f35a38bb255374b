from __future__ import annotations

from pathlib import Path

import pytest
from jsonargparse import Namespace

from tests.conftest import ROOT
from vatt.cli.main import main
from vatt.cli.parsing import expand_user

FIT = ["pretrain", "fit", "--config", str(ROOT / "configs/demo.yaml")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*FIT, "--trainer.max_step", "3"], "there is no option --trainer.max_step; did you mean --trainer.max_steps"),
        ([*FIT, "--trainr.max_steps=3"], "there is no option --trainr.max_steps; did you mean --trainer.max_steps"),
        ([*FIT, "--data.format.num_frame", "3"], "did you mean --data.format.num_frames"),
        (
            [*FIT, "--model.objective.init_args.tempurature", "3"],
            "Contrastive has no option 'tempurature'; did you mean",
        ),
        ([*FIT, "--trainer.precision", "13"], "trainer.precision: '13' is not valid; choose from"),
        ([*FIT, "--trainer.max_steps", "many"], "trainer.max_steps: 'many' is not valid; expected a value of type int"),
        ([*FIT, "--data.vocabulary=null", "--trainer.accelerator", "tpu"], "trainer: "),
        ([*FIT, "--data.vocabulary=null", "--trainer.devices", "0"], "trainer: "),
        (["pretrain", "fti"], "invalid choice: 'fti'"),
        (["embed", "x", "--mod", "y"], "there is no option --mod; did you mean --model?"),
        (["index", "x", "--output", "y", "--kind", "hsnw"], "'hsnw' is not valid; choose from auto, flat, hnsw, ivfpq"),
        (["index", "x", "--output", "y", "--zzz"], "there is no option --zzz, see --help"),
        (["search"], "required: index"),
        (["finetune", "fit", "--data.fol", "1"], "there is no option --data.fol; did you mean --data.fold"),
    ],
)
def test_a_mistake_is_answered_with_one_sentence(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Abbreviated options are mistakes, too."""
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err.removeprefix("Seed set to 0\n")
    assert status == 2
    assert message in error
    assert error.startswith(f"vatt {argv[0]}")
    assert len(error.splitlines()) == 1, error


def test_an_unknown_key_of_a_file_is_answered_with_the_closest_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("run: {foldr: runs/x}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "fit", "--config", str(tmp_path / "mine.yaml")])
    assert stopped.value.code == 2
    assert "there is no option 'run.foldr'; did you mean run.folder?" in capsys.readouterr().err


def test_home_directories_are_expanded_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = Namespace(
        run=Namespace(folder="~/runs/a"), data=Namespace(manifest="~", cache="a~b", names=["~/x", "y"]), steps=3,
        sources={"one": Namespace(manifest="~/m.csv")},
    )  # fmt: skip
    expand_user(config)
    assert config.run.folder == "/home/me/runs/a"
    assert config.data.manifest == "/home/me"
    assert config.data.cache == "a~b"
    assert config.data.names == ["/home/me/x", "y"]
    assert config.sources["one"].manifest == "/home/me/m.csv"
    assert config.steps == 3


def test_a_home_directory_in_a_file_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("data: {manifest: ~/none.csv, vocabulary: null}\nrun: {folder: ~/run}\n")
    assert main([*FIT, "--config", str(tmp_path / "mine.yaml")]) == 2
    assert f"there is no manifest and no folder at {tmp_path}/none.csv" in capsys.readouterr().err
    assert main([*FIT, "--run.folder", "~/run", "--data.vocabulary", "null", "--ckpt_path", "last"]) == 2
    assert f"there is no checkpoint at {tmp_path}/run/checkpoints/last.ckpt" in capsys.readouterr().err
