from __future__ import annotations

import logging
from pathlib import Path

import pytest
from jsonargparse import Namespace

from tests.conftest import ROOT
from vatt.cli.main import main
from vatt.cli.parsing import changed_options, check_config_files, expand_user, strings_of

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
        ([*FIT, "--trainer.gradient_clip_val", "nan"], "val: 'nan' is not valid; expected int, float or null"),
        ([*FIT, "--seed_everything", "foo"], "seed_everything: 'foo' is not valid; expected bool or int"),
        ([*FIT, "--trainer.callbacks", "[{class_path: pathlib.Path}]"], "callbacks: pathlib.Path is not a subclass of"),
        ([*FIT, "--trainer.logger", "3"], "'3' is not valid; expected Logger, Iterable[Logger], bool or null"),
        (
            [*FIT, "--model.backbone.init_args.transformers.video", "null"],
            "model.backbone.transformers.video: 'None' is not valid; expected Encoder or dict[str, Encoder]",
        ),
        ([*FIT, "--model.backbone", "null"], "'None' is not valid; expected the import path of a subclass of Backbone"),
        ([*FIT, "--data", "none.yaml"], "data: 'none.yaml' is neither a file nor a mapping\n"),
        (
            [*FIT, "--data", "data/shape"],
            "data: 'data/shape' is neither a file nor a mapping; did you mean data/shapes",
        ),
        (["pretrain", "fit", "--config", "pretrain_smal"], "no configuration 'pretrain_smal', neither as a file nor"),
        (["finetune", "fit", "--config=configs/finetune_grids.yaml"], "did you mean finetune_grid"),
        (["finetune", "fit", "--model.pretrained", "/none"], "error: no model in /none: there is no such folder"),
        ([*FIT, "--data.vocabulary=null", "--trainer.accelerator", "tpu"], "trainer: Requirement 'torch_xla"),
        ([*FIT, "--data.vocabulary=null", "--trainer.devices", "0"], "trainer: `Trainer(devices='0')`"),
        ([*FIT, "--ckpt", "last"], "there is no option --ckpt; did you mean --ckpt_path?"),
        ([*FIT, "--model.clip_backbon", "-1"], "option --model.clip_backbon; did you mean --model.backbone?\n"),
        (
            [*FIT, "--model.objective.class_path", "vatt.objectives.contrastive.Contrastiv"],
            "there is no class 'Contrastiv' in vatt.objectives.contrastive; did you mean Contrastive?",
        ),
        ([*FIT, "--model.objective.init_args.micro_batch", "0"], "micro_batch must be at least 1, not 0"),
        ([*FIT, "--model.optimization.betas", "[0.9,1]"], "model.optimization.betas must lie in [0, 1), not 1"),
        ([*FIT, "--model.optimization.eps", "-1"], "model.optimization.eps must lie in [0, inf), not -1.0"),
        ([*FIT, "--model.optimization.clip_each", "0"], "model.optimization.clip_each must lie in (0, inf), not 0.0"),
        ([*FIT, "--model.objective.init_args.drop_video", "1"], "drop_video must lie in [0, 1), not 1.0"),
        ([*FIT, "--model.objective.init_args.drop_audio=.nan"], "drop_audio must lie in [0, 1), not nan"),
        (
            [*FIT, "--data.vocabulary=null", "--trainer.check_val_every_n_epoch=0"],
            "n_epoch must lie in [1, inf), not 0",
        ),
        ([*FIT, "--data.vocabulary=null", "--trainer.log_every_n_steps=0"], "n_steps must lie in [1, inf), not 0"),
        ([*FIT, "--data.vocabulary=null", "--trainer.val_check_interval=0"], "interval must be above 0, not 0"),
        (
            [*FIT, "--data.vocabulary=null", "--trainer.gradient_clip_val=.nan"],
            "trainer.gradient_clip_val must lie in [0, inf), not nan",
        ),
        ([*FIT, "--data.vocabulary=null", "--run.ema", "1"], "run.ema must lie in [0, 1), not 1.0"),
        ([*FIT, "--data.vocabulary=null", "--run.checkpoint_steps", "0"], "checkpoint_steps must be at least 1, not 0"),
        ([*FIT, "--data.vocabulary=null", "--data.batch_size", "0"], "data.batch_size must be at least 1, not 0"),
        ([*FIT, "--data.vocabulary=null", "--data.num_workers", "-1"], "data.num_workers must be at least 0, not -1"),
        ([*FIT, "--data.vocabulary=null", "--data.val_fraction", "1"], "data.val_fraction must lie in [0, 1), not 1.0"),
        ([*FIT, "--seed_everything", "-1"], "seed_everything must lie between 0 and 2^32 - 1, not -1"),
        ([*FIT, "--data.vocabulary=null", "--trainer.precision", "16-mixed"], "16-mixed needs a GPU"),
        (["pretrain", "fti"], "invalid choice: 'fti'"),
        (["embed", "x", "--mod", "y"], "there is no option --mod; did you mean --model or --modalities?"),
        (["index", "x", "--output", "y", "--kind", "hsnw"], "'hsnw' is not valid; choose from auto, flat, hnsw, ivfpq"),
        (["index", "x", "--output", "y", "--zzz"], "there is no option --zzz, see --help"),
        (["search"], "required: index"),
        (["finetune", "fit", "--data.fol", "1"], "there is no option --data.fol; did you mean --data.fold"),
    ],
)
def test_invalid_options_are_reported_in_one_sentence(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Abbreviated options are errors, too."""
    caplog.set_level(logging.WARNING, "lightning.fabric.utilities.seed")
    try:
        status = main(argv)
    except SystemExit as stopped:
        status = stopped.code
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.startswith(f"vatt {argv[0]}")
    assert len(error.splitlines()) == 1, error


def test_changed_options_are_listed() -> None:
    before = {"data": {"batch_size": 4, "split": "train"}, "run": {"ema": None}, "old": 1}
    now = {"data": {"batch_size": 8, "split": "train"}, "run": {"ema": 0.5}, "long": "x" * 100}
    assert changed_options(before, now) == [
        "data.batch_size 4 -> 8", f"long null -> {'x' * 59}…", "old 1 -> null", "run.ema null -> 0.5",
    ]  # fmt: skip


def test_strings_of_nested_configurations() -> None:
    config = Namespace(a="x", b=Namespace(c=[Namespace(d="y"), {"e": "z"}], f=3), g=("u", None))
    assert list(strings_of(config)) == [("a", "x"), ("b.c.d", "y"), ("b.c.e", "z"), ("g", "u")]


def test_unknown_key_in_a_file_suggests_the_closest_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("run: {foldr: runs/x}\n")
    with pytest.raises(SystemExit) as stopped:
        main(["pretrain", "fit", "--config", str(tmp_path / "mine.yaml")])
    assert stopped.value.code == 2
    assert "there is no option 'run.foldr'; did you mean run.folder?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [b\n", ", line 2: not valid YAML: expected ',' or ']'"),
        (b"\xff\xfe\x00", " is not UTF-8 text: invalid start byte at byte 0"),
        (b"run: {}\ndata: {format: {size: 3, size: 4}}\n", ", line 2: key 'size' is given twice"),
        (b"run: {}\ndata: {}\nrun: {}\n", ", line 3: key 'run' is given twice"),
    ],
)
@pytest.mark.parametrize("referred", [False, True])
def test_a_damaged_file_of_a_configuration_is_named(
    tmp_path: Path, content: bytes, message: str, referred: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.yaml").write_bytes(content)
    (tmp_path / "good.yaml").write_text("a: [damaged.yaml]\n")
    name = "good.yaml" if referred else "damaged.yaml"
    assert main(["pretrain", "fit", "--config", str(tmp_path / name)]) == 2
    assert f"error: {tmp_path / 'damaged.yaml'}{message}" in capsys.readouterr().err


def test_arguments_that_are_not_paths_are_not_files() -> None:
    long = "--model.backbone={class_path: " + 100 * "abc." + "yaml"
    check_config_files([long, "--data", long.partition("=")[2], "--config=a\0b"])


def test_home_directories_are_expanded_in_nested_values(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_home_directory_in_a_file_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("data: {manifest: ~/none.csv, vocabulary: null}\nrun: {folder: ~/run}\n")
    assert main([*FIT, "--config", str(tmp_path / "mine.yaml")]) == 2
    assert f"there is no manifest and no folder at {tmp_path}/none.csv" in capsys.readouterr().err
    assert main([*FIT, "--run.folder", "~/run", "--data.vocabulary", "null", "--ckpt_path", "last"]) == 2
    assert f"there is no checkpoint at {tmp_path}/run/checkpoints/last.ckpt" in capsys.readouterr().err
