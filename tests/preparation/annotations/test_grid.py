"""GRID: what may be wrong, and several speakers. `tests/test_prepare.py` runs it as a user does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.preparation.annotations.conftest import Done

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]


def words(done: Done) -> dict[str, str]:
    return {clip.id: clip.texts[0].text if clip.texts else "" for clip in done.clips}


@pytest.mark.parametrize("align", ["s{}/bbaf2n.align", "s{}/align/bbaf2n.align", "s{}/video/bbaf2n.align"])
def test_several_speakers(prepare: Prepare, touch: Touch, save: Save, align: str) -> None:
    media = touch("s1/video/bbaf2n.mpg", "s2/video/bbaf2n.mpg", "s3/video/bbaf2n.mpg")
    for speaker in (1, 2):
        save(f"grid/{align.format(speaker)}", f"0 25000 sil\n25000 50000 word{speaker}\n")
    save("grid/bbaf2n.align", "0 25000 nobody\n")
    done = prepare("grid", media, media.parent / "grid")
    assert words(done) == {"s1/video/bbaf2n": "word1", "s2/video/bbaf2n": "word2"}
    assert "Videos left out, without an alignment: 1 (first: s3/video/bbaf2n.mpg)." in done.out


def test_videos_of_one_name_in_one_folder(prepare: Prepare, touch: Touch, save: Save) -> None:
    align = save("align/a.align", "0 25000 bin\n").parent
    done = prepare("grid", touch("a.mpg", "a.wav"), align)
    assert (done.status, "a.mpg and a.wav in " in done.err) == (2, True)


@pytest.mark.parametrize("found", ["other.align", "bbaf2n.txt", None])
def test_nothing_that_fits_leaves_an_earlier_manifest(
    prepare: Prepare, touch: Touch, save: Save, output: Path, found: str | None
) -> None:
    output.parent.mkdir()
    output.write_text("of an earlier run")
    folder = save(f"align/{found}", "0 25000 bin\n").parent if found else output.parent / "nowhere"
    done = prepare("grid", touch("bbaf2n.mpg"), folder)
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert done.err.startswith("error: ")
    assert output.read_text() == "of an earlier run"
    if found == "other.align":
        assert "no row that can be used. Videos left out, without an alignment: 1 (first: bbaf2n.mpg)." in done.err


@pytest.mark.parametrize("line", ["0 one bin", "25000 0 bin", "-5 25000 bin", "0 25000", "0 ² bin", "0 1 bin blue"])
def test_lines_that_are_wrong(prepare: Prepare, touch: Touch, save: Save, line: str) -> None:
    path = save("align/a.align", f"0 25000 sil\n{line}\n")
    done = prepare("grid", touch("a.mpg"), path.parent)
    assert done.err == f"error: {path}, line 2: {line!r} is not 'begin end word'\n"


def test_silence_alone_is_no_text(prepare: Prepare, touch: Touch, save: Save) -> None:
    path = save("align/a.align", "0 25000 sil\n")
    done = prepare("grid", touch("a.mpg"), path.parent)
    assert words(done) == {"a": ""}
    assert f"Alignments without a word: 1 (first: {path})." in done.out


@pytest.mark.parametrize("share", ["7", "-0.1", "nan"])
def test_a_share_that_is_none(prepare: Prepare, touch: Touch, save: Save, share: str) -> None:
    align = save("align/a.align", "0 25000 bin\n").parent
    done = prepare("grid", touch("a.mpg"), align, "--test_fraction", share)
    assert done.err == f"error: --test_fraction {share}: a share from 0 to 1 is wanted\n"
