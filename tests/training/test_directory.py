from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest
import torch

from vatt.errors import DirectoryInUse, InputError
from vatt.training.checkpoint_io import DamagedCheckpoint
from vatt.training.directory import RunDirectory, find_checkpoint


def save(path: Path, score: float | None = None, age_s: float = 0.0) -> Path:
    """Save a checkpoint with the best score of its training."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = None if score is None else torch.tensor(score)
    torch.save({"callbacks": {"BestCheckpoint{'monitor': 'val/rsum'}": {"best_model_score": state}}}, path)
    os.utime(path, (1e9 - age_s, 1e9 - age_s))
    return path


@pytest.mark.parametrize("keyword", ["last", "best", "hpc", "there/none.ckpt"])
def test_missing_checkpoint_is_an_error(tmp_path: Path, keyword: str) -> None:
    with pytest.raises(InputError, match=rf"--ckpt_path {keyword}: "):
        find_checkpoint(tmp_path, keyword)
    assert find_checkpoint(tmp_path, "auto") is None
    assert find_checkpoint(tmp_path, None) is None


def test_keywords_are_checkpoints_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last, best = (save(tmp_path / "checkpoints" / f"{name}.ckpt", age_s=5) for name in ("last", "best"))
    hpc = [save(tmp_path / f"hpc_ckpt_{number}.ckpt", age_s=9) for number in (2, 10)]
    assert [find_checkpoint(tmp_path, name, {}) for name in ("last", "best", "hpc", "auto", None)] == [
        last, best, hpc[1], last, None,
    ]  # fmt: skip
    assert find_checkpoint("elsewhere", str(best), {}) == best
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_checkpoint("elsewhere", "~/checkpoints/best.ckpt", {}) == best


def test_a_path_that_is_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--ckpt_path is empty: pass last, best"):
        find_checkpoint(tmp_path, "")
    with pytest.raises(InputError, match=f"--ckpt_path {tmp_path}: .* is a directory"):
        find_checkpoint(tmp_path, str(tmp_path))


def test_auto_is_the_newest_intact_checkpoint(tmp_path: Path) -> None:
    last, previous, hpc = (
        save(tmp_path / name, age_s=age)
        for name, age in (("checkpoints/last.ckpt", 1), ("checkpoints/previous.ckpt", 9), ("hpc_ckpt_1.ckpt", 5))
    )
    assert find_checkpoint(tmp_path, "auto") == last
    for damaged, expected in ((last, hpc), (hpc, previous)):
        age = damaged.stat().st_mtime
        os.truncate(damaged, 20)
        os.utime(damaged, (age, age))
        with pytest.warns(UserWarning, match=f"{damaged} cannot be read: {expected} is used instead"):
            assert find_checkpoint(tmp_path, "auto") == expected
    os.truncate(previous, 20)
    with pytest.raises(DamagedCheckpoint, match=r"--ckpt_path auto: .*previous.ckpt.* cannot be read"):
        find_checkpoint(tmp_path, "auto")


def test_a_requeued_slurm_job_resumes_from_the_newest_checkpoint(tmp_path: Path) -> None:
    requeued = {"SLURM_RESTART_COUNT": "1"}
    last = save(tmp_path / "checkpoints" / "last.ckpt", age_s=5)
    assert find_checkpoint(tmp_path, None, requeued) is None  # without an hpc checkpoint, a new training starts
    hpc = save(tmp_path / "hpc_ckpt_1.ckpt", age_s=1)
    assert find_checkpoint(tmp_path, None, requeued) == hpc
    assert find_checkpoint(tmp_path, None, {"SLURM_RESTART_COUNT": "0"}) is None
    os.utime(last)
    assert find_checkpoint(tmp_path, None, requeued) == last


def test_new_training_moves_files_of_an_earlier_one(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for attempt in (1, 2):
        save(run / "checkpoints" / "last.ckpt", attempt)
        for name in ("model/config.json", "logs/version_0/metrics.csv", "config.yaml", "data_events.1.csv"):
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text(str(attempt))
        (run / "embeddings").mkdir(exist_ok=True)
        directory = RunDirectory(run)
        assert directory.open(None) == run / "earlier" / str(attempt)
        directory.close()
        assert {path.name for path in run.iterdir()} == {".lock", "earlier", "embeddings"}
        assert (run / "earlier" / str(attempt) / "logs/version_0/metrics.csv").read_text() == str(attempt)
        assert (run / "earlier" / str(attempt) / "checkpoints/last.ckpt").is_file()


def test_files_of_a_run_without_a_checkpoint_are_kept(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run: {}")
    (tmp_path / "checkpoints").mkdir()
    directory = RunDirectory(tmp_path)
    assert directory.open(None) is None
    directory.close()
    assert (tmp_path / "config.yaml").is_file()


class Trainer:
    is_global_zero = True


@pytest.mark.parametrize(
    ("resumed", "moved"),
    [
        ("checkpoints/last.ckpt", []),  # of the same training
        ("checkpoints/previous.ckpt", ["best.ckpt", "last.ckpt"]),  # the best one is newer
        ("checkpoints/best.ckpt", ["last.ckpt"]),
        ("../other.ckpt", ["best.ckpt", "last.ckpt"]),
    ],
)
def test_resume_moves_checkpoints_of_other_trainings(
    tmp_path: Path, resumed: str, moved: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    scores = {"checkpoints/last.ckpt": 7.0, "checkpoints/previous.ckpt": 5.0, "checkpoints/best.ckpt": 7.0}
    for name, score in (scores | {"../other.ckpt": 1.0}).items():
        save(run / name, score)
    directory = RunDirectory(run)
    assert directory.open(run / resumed) is None
    directory.on_fit_start(Trainer(), None)  # type: ignore[arg-type]
    directory.close()
    assert sorted(path.name for path in run.glob("earlier/1/checkpoints/*")) == moved
    assert (run / resumed).is_file()
    names = " and ".join(reversed(moved))
    message = f"not part of the training that is resumed from {run / resumed}: {names}, now in {run / 'earlier' / '1'}"
    assert capsys.readouterr().out == (f"{message}\n" if moved else "")


def test_a_second_training_in_a_directory_is_refused(tmp_path: Path) -> None:
    first, second = RunDirectory(tmp_path), RunDirectory(tmp_path)
    save(tmp_path / "checkpoints" / "last.ckpt")
    first.open(tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(DirectoryInUse, match="another process is writing to"):
        second.open(None)
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    first.close()
    second.open(None)
    second.close()


@pytest.mark.parametrize("trained", [False, True])
def test_moved_files_are_restored_if_no_step_was_trained(tmp_path: Path, trained: bool) -> None:
    old = {
        "checkpoints/last.ckpt": "c",
        "model/config.json": "m",
        "logs/version_0/metrics.csv": "l",
        "config.yaml": "y",
    }
    for name, text in old.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    directory = RunDirectory(tmp_path)
    assert directory.open(None) == tmp_path / "earlier" / "1"
    for name in ("logs/version_0/hparams.yaml", "config.yaml"):  # of the training that fails
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("new")
    if trained:
        directory.on_train_batch_end(Trainer())  # type: ignore[arg-type]
    assert directory.restore() == (None if trained else f"files of the earlier training are back in {tmp_path}")
    directory.close()
    folder = tmp_path / "earlier" / "1" if trained else tmp_path
    assert {name: (folder / name).read_text() for name in old} == old
    assert (tmp_path / "earlier").exists() is trained
    assert (tmp_path / "logs/version_0/hparams.yaml").exists() is trained


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_files_are_moved_is_deferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    replace, before = os.replace, signal.getsignal(number)

    def interrupted(source: Path, target: Path) -> None:
        signal.raise_signal(number)
        replace(source, target)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    save(tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "config.yaml").write_text("run: {}")
    directory = RunDirectory(tmp_path)
    try:
        signal.signal(number, stop)
        monkeypatch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            directory.open(None)
        moved = {path.name for path in (tmp_path / "earlier" / "1").iterdir()}
        with pytest.raises(KeyboardInterrupt):
            directory.restore()
        assert signal.getsignal(number) == stop
    finally:
        signal.signal(number, before)
        directory.close()
    assert moved == {"checkpoints", "config.yaml"}
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "checkpoints", "config.yaml"}


def test_files_that_cannot_be_moved_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure in the middle is undone; where that fails, too, the message says where the files are."""
    replace = os.replace

    def fail(source: Path, target: Path) -> None:
        if "checkpoints" in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link", str(source))
        replace(source, target)

    (tmp_path / "config.yaml").write_text("run: {}")
    save(tmp_path / "checkpoints" / "last.ckpt")
    directory = RunDirectory(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="cross-device"):
            directory.open(None)
    assert directory.restore() == f"files of the earlier training are back in {tmp_path}"
    assert not (tmp_path / "earlier").exists()
    assert (tmp_path / "config.yaml").is_file()
    directory.open(None)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        left = tmp_path / "earlier" / "1" / "checkpoints"
        assert str(directory.restore()).endswith(f"could not be moved back (Invalid cross-device link): {left}")
    directory.close()
    assert (tmp_path / "config.yaml").is_file()


def test_moved_links_keep_their_targets(tmp_path: Path) -> None:
    run = tmp_path / "run"
    save(tmp_path / "store" / "best.ckpt", 5.0)
    save(run / "checkpoints" / "last.ckpt", 3.0)
    (tmp_path / "logs").mkdir()
    links = {
        "checkpoints/best.ckpt": "../../store/best.ckpt",  # in a directory that is moved
        "logs": "../logs",
        "config.yaml": "checkpoints/last.ckpt",  # to a file that is moved as well
        "model": str(tmp_path / "store"),
    }
    for name, target in links.items():
        (run / name).symlink_to(target)
    targets = {name: (run / name).resolve() for name in links}
    directory = RunDirectory(run)
    moved = directory.open(None)
    assert moved is not None
    targets["config.yaml"] = moved / "checkpoints" / "last.ckpt"
    assert {name: (moved / name).resolve() for name in links} == targets
    directory.restore()
    directory.close()
    assert {name: os.readlink(run / name) for name in links} == links
