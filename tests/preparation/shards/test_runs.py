"""A shard is there whole or not at all, whatever happens to a run, and always the same."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from tests.conftest import ROOT
from tests.media.zoo import ODD, ZOO
from tests.preparation.shards.test_writing import contents, manifest, run
from vatt.datasets.manifest import read_manifest
from vatt.errors import InputError, VattError
from vatt.media.transcode import Encoding
from vatt.preparation.shards.members import SourceResult, make_members
from vatt.preparation.shards.plan import Source
from vatt.structures import Clip


def troubled(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """`make_members`, but some names bring down the process that works on them."""
    name = Path(source.clips[0].path).stem
    if name in ("crashes", "hangs", "fails", "full"):
        (Path(folder) / f"{source.rows[0]:08d}.mp4.member").write_bytes(b"begun")
        time.sleep(0.2)  # until the pool has noted what this process is at
    match name:
        case "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hangs":
            time.sleep(600)
        case "fails":
            raise ValueError("a bug\nin two lines")
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return make_members(source, encoding, folder)


def killing(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """`make_members`, which kills the run in the middle of a shard, once the first shard is done."""
    if source.rows[0] == 5:
        while not (Path(folder).parent / "00000.json").exists():
            time.sleep(0.01)
        os.kill(os.getppid(), signal.SIGKILL)
        os._exit(0)
    return make_members(source, encoding, folder)


def never(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """Nothing is to be made any more."""
    raise AssertionError(source)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for name in ("h264.mp4", "variable.mp4", "av1_opus.mp4", "late_sound.mp4", "edit_list.mp4"):
        ZOO[name](folder / name)
    ODD["sound_only.m4a"][0](folder / "sound_only.m4a")
    return folder


@pytest.fixture
def media(tmp_path: Path, originals: Path) -> Path:
    """Six files of 20 to 70 kB."""
    return Path(shutil.copytree(originals, tmp_path / "videos"))


def test_a_killed_run_is_continued_to_the_same_bytes(media: Path, tmp_path: Path) -> None:
    reference, output = tmp_path / "reference", tmp_path / "killed"
    assert run(media, reference, num_workers=1).shards == 3
    script = (
        "import sys; from pathlib import Path; from tests.preparation.shards.test_runs import killing, run;"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), num_workers=1, make=killing)"
    )
    command = [sys.executable, "-c", script, str(media), str(output)]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == -signal.SIGKILL
    assert {path.name for path in output.iterdir()} >= {"00000.tar", ".prepare"}
    assert not (output / "manifest.jsonl").exists()
    done = len(list((output / ".prepare").glob("0*.json")))
    first = (output / "00000.tar").stat().st_mtime_ns

    summary = run(media, output)  # with another number of workers
    assert summary.written == 3 - done
    assert (output / "00000.tar").stat().st_mtime_ns == first
    assert contents(output) == contents(reference)
    assert not list((output / ".prepare").glob("members*"))

    again = run(media, output, make=never)
    assert (again.written, again.rows, again.damaged) == (0, 6, [])
    assert contents(output) == contents(reference)


def test_damaged_shards_are_named_and_made_again(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output)
    good = contents(output)
    content = bytearray(good["00001.tar"])
    content[len(content) // 2] ^= 1
    (output / "00001.tar").write_bytes(content)
    assert run(media, output, make=never).damaged == []  # of the right size
    summary = run(media, output, verify=True)
    assert (summary.damaged, summary.written) == (["00001.tar"], 1)
    assert contents(output) == good

    (output / "00000.tar").unlink()
    (output / "00002.tar").write_bytes(good["00002.tar"][:-1])
    summary = run(media, output)
    assert (summary.damaged, summary.written) == (["00000.tar", "00002.tar"], 2)
    assert contents(output) == good
    assert run(media, output, verify=True, make=never).written == 0


def test_shards_of_another_command_are_not_mixed_in(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output)
    before = contents(output)
    with pytest.raises(InputError, match=r"crf was 10, is 30\)"):
        run(media, output, encoding=Encoding(crf=30))
    with pytest.raises(InputError, match=r"gop was 16, is 8; shard_mb was 0\.1, is 0\.2"):
        run(media, output, encoding=Encoding(crf=10, gop=8), shard_mb=0.2)
    shutil.copy(media / "h264.mp4", media / "z.mp4")
    with pytest.raises(InputError, match="the manifest has changed"):
        run(media, output)
    (media / "z.mp4").unlink()
    whole = (media / "h264.mp4").read_bytes()
    (media / "h264.mp4").write_bytes(whole + b"more")
    with pytest.raises(InputError, match="a media file was changed"):
        run(media, output)
    (media / "h264.mp4").write_bytes(whole)
    assert contents(output) == before
    summary = run(media, output, encoding=Encoding(crf=30), shard_mb=10.0, overwrite=True)
    assert (summary.shards, sorted(path.name for path in output.glob("*.tar"))) == (1, ["00000.tar"])
    assert len(read_manifest(output / "manifest.jsonl")) == 6


def test_folders_of_others_and_the_source_are_safe(media: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds other things"):
        run(media, media, overwrite=True)
    output = tmp_path / "out"
    run(media, output)
    with pytest.raises(InputError, match="could be overwritten"):
        run(output / "manifest.jsonl", output)
    with FileLock(output / ".prepare" / "lock"), pytest.raises(InputError, match="another run is at work"):
        run(media, output)
    with pytest.raises(InputError, match="none of its files is there"):
        run(manifest(tmp_path / "gone.jsonl", [Clip(id="a", path="gone.mp4")]), tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"encoding": Encoding(short_side=0)}, "short_side"),
        ({"encoding": Encoding(crf=60)}, "crf"),
        ({"encoding": Encoding(gop=0)}, "gop"),
        ({"encoding": Encoding(fps=0.0)}, "fps must be positive"),
        ({"shard_mb": 0.0}, "shard_mb must be positive"),
        ({"num_workers": 0}, "num_workers"),
        ({"time_limit_s": 0.0}, "time_limit_s"),
    ],
)
def test_options_that_cannot_be(tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run(tmp_path, tmp_path / "out", **options)


def test_decoders_that_crash_or_hang_cost_one_clip(media: Path, tmp_path: Path) -> None:
    for name in ("crashes", "hangs", "fails"):
        shutil.copy(media / "h264.mp4", media / f"{name}.mp4")
    output = tmp_path / "out"
    summary = run(media, output, make=troubled, time_limit_s=3.0)
    assert {event["id"]: (event["kind"], event["reason"]) for event in summary.left_out} == {
        "crashes.mp4": ("crashed", "the process that read it was killed by SIGSEGV"),
        "hangs.mp4": ("timeout", "not done within 3 s"),
        "fails.mp4": ("unreadable", "ValueError: a bug"),
    }
    with (output / "errors.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == summary.left_out
    assert len(read_manifest(output / "manifest.jsonl")) == 6
    assert run(media, output, make=never).left_out == summary.left_out  # they are remembered


def test_a_full_disk_ends_the_run_but_keeps_what_is_done(media: Path, tmp_path: Path) -> None:
    shutil.copy(media / "h264.mp4", media / "full.mp4")
    output = tmp_path / "out"
    with pytest.raises(VattError, match="no space is left"):
        run(media, output, make=troubled, shard_mb=0.001, num_workers=1)
    assert (output / "00000.tar").is_file()
    assert not (output / "manifest.jsonl").exists()
    assert len(run(media, output, shard_mb=0.001).left_out) == 0


def test_a_shard_of_which_nothing_is_left_has_no_file(media: Path, tmp_path: Path) -> None:
    (media / "a.mp4").write_text("no video")
    output = tmp_path / "out"
    summary = run(media, output, shard_mb=0.000_01)
    assert sorted(path.name for path in output.glob("*.tar")) == [f"0000{number}.tar" for number in range(1, 7)]
    assert (summary.shards, summary.written, len(summary.left_out)) == (6, 7, 1)
    assert run(media, output, shard_mb=0.000_01, verify=True, make=never).damaged == []

    only = tmp_path / "only"
    only.mkdir()
    shutil.copy(media / "a.mp4", only)
    assert run(only, tmp_path / "none").rows == 0
    assert not (tmp_path / "none" / "manifest.jsonl").exists()
