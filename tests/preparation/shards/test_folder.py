"""Nothing is overwritten that others need, and what an earlier run has left is not believed blindly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT, beeps, numbered_frames
from tests.preparation.shards.test_runs import never
from tests.preparation.shards.test_writing import contents, manifest, run
from vatt.datasets.manifest import read_manifest
from vatt.errors import InputError
from vatt.media.decoding import open_media
from vatt.media.encoding import write_media
from vatt.media.transcode import Encoding
from vatt.preparation.shards.folder import check
from vatt.preparation.shards.members import SourceResult, make_members
from vatt.preparation.shards.plan import Source
from vatt.structures import Clip

EACH = {"shard_mb": 0.000_01, "num_workers": 1}  # a shard for every file


def beside_an_orphan(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """`make_members`, while a worker of an earlier run writes files of the same names where it was told to."""
    result = make_members(source, encoding, folder)
    for path in (Path(folder).parent / "members").glob("*"):
        path.write_bytes(b"of another run")
    return result


def waiting(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """Says which process it is in, and comes to no end."""
    (Path(folder).parent / "pid.part").write_text(str(os.getpid()))
    os.replace(Path(folder).parent / "pid.part", Path(folder).parent / "pid")
    time.sleep(600)
    return SourceResult()


def refusing(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """`make_members` while the server of one file is down."""
    if Path(source.clips[0].path).stem == "a":
        raise OSError("the server is down")
    return make_members(source, encoding, folder)


@pytest.fixture
def media(tmp_path: Path, video_file: Path, silent_file: Path) -> Path:
    """Two small files."""
    folder = tmp_path / "videos"
    folder.mkdir()
    shutil.copy(video_file, folder / "a.mp4")
    shutil.copy(silent_file, folder / "b.mp4")
    return folder


def test_workers_of_a_killed_run_do_not_meddle(media: Path, tmp_path: Path) -> None:
    left = tmp_path / "out" / ".prepare" / "members.killed"
    left.mkdir(parents=True)
    (left.parent / "members").mkdir()
    assert run(media, tmp_path / "out", make=beside_an_orphan).left_out == []
    for clip in read_manifest(tmp_path / "out" / "manifest.jsonl"):
        open_media(clip.path).close()
    assert list(left.parent.glob("members*")) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc whether a process is alive")
def test_workers_end_with_the_run(media: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.preparation.shards.test_folder import run, waiting;"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), num_workers=1, make=waiting)"
    )
    main = subprocess.Popen([sys.executable, "-c", script, str(media), str(tmp_path / "out")], cwd=ROOT)
    noted, limit_s = tmp_path / "out" / ".prepare" / "pid", time.monotonic() + 240
    while not noted.exists() and time.monotonic() < limit_s:
        time.sleep(0.05)
    worker = Path("/proc", noted.read_text(), "stat")
    main.send_signal(signal.SIGKILL)
    main.wait()
    limit_s = time.monotonic() + 30

    def is_alive() -> bool:
        try:
            return worker.read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    while is_alive() and time.monotonic() < limit_s:
        time.sleep(0.05)
    assert not is_alive()


def test_sources_in_the_folder_are_not_overwritten(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output)
    shutil.copy(media / "a.mp4", output / "mine.mp4")
    os.symlink(output / "mine.mp4", tmp_path / "link.mp4")
    before = contents(output)
    moved = [Clip(id="a", path=read_manifest(output / "manifest.jsonl")[0].path)]
    for clips in (
        moved,
        [Clip(id="a", path=str(output / "mine.mp4"))],
        [Clip(id="a", path=str(tmp_path / "link.mp4"))],
    ):
        source = manifest(tmp_path / "other.jsonl", clips)
        with pytest.raises(InputError, match="could be overwritten"):
            run(source, output, overwrite=True)
    for source in (output, output / "mine.mp4", output / "manifest.jsonl"):
        with pytest.raises(InputError, match="could be overwritten"):
            run(source, output, overwrite=True)
    assert contents(output) == before


def test_only_shards_are_removed(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output)
    shutil.copy(output / "00000.tar", output / "00007.tar.part")
    for name in ("2019.tar", "00000.tar.gz", "1_mine.tar", "00000.tar.md5"):
        (output / name).write_text("mine")
    assert run(media, output, overwrite=True).written == 1  # though the command is the same
    assert not (output / "00007.tar.part").exists()
    for name in ("2019.tar", "00000.tar.gz", "1_mine.tar", "00000.tar.md5"):
        assert (output / name).read_text() == "mine"


def test_a_source_that_has_changed_is_noticed(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output)
    content = bytearray((media / "a.mp4").read_bytes())
    content[-1] ^= 1
    os.utime(media / "a.mp4", (1, 1))
    (media / "a.mp4").write_bytes(content)  # of the same size
    with pytest.raises(InputError, match="a media file was changed"):
        run(media, output)


def test_what_failed_for_a_while_can_be_tried_again(media: Path, tmp_path: Path) -> None:
    rows = [Clip(id=path.stem, path=str(path)) for path in sorted(media.iterdir())]
    rows.append(Clip(id="late", path=rows[1].path, start_s=50.0, end_s=51.0))  # after the end: that will not pass
    source, output = manifest(tmp_path / "clips.jsonl", rows), tmp_path / "out"
    first = run(source, output, make=refusing, **EACH)
    assert {event["id"]: event["kind"] for event in first.left_out} == {"a": "unreadable", "late": "outside"}
    assert not (output / "00000.tar").exists()
    assert run(source, output, make=never, **EACH).left_out == first.left_out
    again = run(source, output, retry=True, **EACH)
    assert (again.written, again.damaged, [event["id"] for event in again.left_out]) == (1, [], ["late"])
    assert [clip.id for clip in read_manifest(output / "manifest.jsonl")] == ["a", "b"]
    assert run(source, output, retry=True, make=never, **EACH).written == 0


@pytest.mark.parametrize("kept", [0, 20])
def test_notes_that_were_cut_off_count_as_none(media: Path, tmp_path: Path, kept: int) -> None:
    output = tmp_path / "out"
    run(media, output, **EACH)
    good = contents(output)
    os.truncate(output / ".prepare" / "00001.json", kept)
    summary = run(media, output, **EACH)
    assert (summary.written, summary.damaged) == (1, ["00001.tar"])
    assert contents(output) == good
    os.truncate(output / ".prepare" / "plan.json", kept)
    with pytest.raises(InputError, match=r"plan\.json cannot be read"):
        run(media, output, **EACH)
    assert run(media, output, overwrite=True, **EACH).written == 2
    assert contents(output) == good


def test_files_are_on_the_disk_before_they_get_their_names(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, sync, replace = set[int](), os.fsync, os.replace

    def watched(old: Path, new: Path) -> None:
        assert Path(old).stat().st_ino in synced, new
        replace(old, new)

    monkeypatch.setattr(os, "fsync", lambda handle: (synced.add(os.fstat(handle).st_ino), sync(handle)))
    monkeypatch.setattr(os, "replace", watched)
    assert run(media, tmp_path / "out").written == 1


def test_shards_are_checked_without_what_they_were_made_of(media: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    run(media, output, **EACH)
    shutil.copy(output / "00001.tar", output / "00002.tar")
    listed = json.loads((output / "shards.json").read_text())
    listed["shards"].append(listed["shards"][1] | {"name": "00002.tar"})
    (output / "shards.json").write_text(json.dumps(listed))
    shutil.rmtree(media)
    moved = output.rename(tmp_path / "moved")
    assert check(moved) == (3, {})
    content = bytearray((moved / "00000.tar").read_bytes())
    content[len(content) // 2] ^= 1
    (moved / "00000.tar").write_bytes(content)
    os.truncate(moved / "00001.tar", 100)
    (moved / "00002.tar").unlink()
    number, problems = check(moved)
    assert number == 3
    assert problems["00000.tar"] == "its content has changed"
    assert problems["00001.tar"].startswith("has 100 bytes, had ")
    assert problems["00002.tar"] == "gone"
    with pytest.raises(InputError, match=r"shards\.json, the list of checksums"):
        check(tmp_path)
    source = manifest(tmp_path / "gone.jsonl", [Clip(id="a", path="gone.mp4")])
    with pytest.raises(InputError, match="--check true"):
        run(source, moved, verify=True)


def test_a_sound_may_be_named_twice(tmp_path: Path) -> None:
    write_media(tmp_path / "long.m4a", None, 25, beeps(20.0, 16_000), 16_000)
    write_media(tmp_path / "other.mp4", numbered_frames(60), 3, beeps(20.0, 16_000), 16_000)
    sound, film = str(tmp_path / "long.m4a"), str(tmp_path / "other.mp4")
    rows = [
        Clip(id="same", path=sound, audio_path=sound, start_s=10.0, end_s=12.0),
        Clip(id="film", path=film, audio_path=film, start_s=10.0, end_s=12.0),
        Clip(id="two sounds", path=sound, audio_path=film, start_s=10.0, end_s=12.0),
    ]
    assert run(manifest(tmp_path / "clips.jsonl", rows), tmp_path / "out").left_out == []
    for clip in read_manifest(tmp_path / "out" / "manifest.jsonl"):
        with open_media(clip.audio_path or clip.path) as new, open_media(clip.path) as shown:
            heard = new.waveform(0.0, 2.0, 16_000)
            assert np.isclose(heard.coverage(), 1.0, atol=0.05)
            assert shown.info.has_video is (clip.id == "film")
            assert shown.info.duration_s < 2.5
