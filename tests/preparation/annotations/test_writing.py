"""What every script has in common, tried with one of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.preparation.annotations.conftest import Done

Prepare, Touch, Save = Callable[..., Done], Callable[..., Path], Callable[[str, str], Path]

LINES = (
    "label,youtube_id,time_start,time_end,split\n"
    "archery,-aaaaaaaaaa,1,11,train\n"
    "archery,bbbbbbbbbbb,2,12,validate\n"
    "zumba,ccccccccccc,3,13,test\n"
    "zumba,ddddddddddd,4,14,test\n"
)


def test_rows_without_media_are_left_out_counted_and_listed(
    prepare: Prepare, touch: Touch, save: Save, output: Path
) -> None:
    media = touch("archery/-aaaaaaaaaa_000001_000011.mp4", "ccccccccccc_000003_000013.mkv", "unknown.mp4")
    done = prepare("kinetics", save("all.csv", LINES), media)
    assert done.status == 0
    assert [clip.id for clip in done.clips] == ["-aaaaaaaaaa@1-11", "ccccccccccc@3-13"]
    assert done.missing == [
        ["bbbbbbbbbbb@2-12", "archery/bbbbbbbbbbb_000002_000012 or archery/bbbbbbbbbbb"],
        ["ddddddddddd@4-14", "zumba/ddddddddddd_000004_000014 or zumba/ddddddddddd"],
    ]
    missing = output.with_suffix(".missing.csv")
    assert done.out == (
        f"{output}: 2 rows (train 1, test 1), 2 labels, 0 texts. Missing media: 2 of 4 rows, listed in {missing}.\n"
    )

    touch("bbbbbbbbbbb_000002_000012.mp4", "ddddddddddd_000004_000014.mp4")
    done = prepare("kinetics", save("all.csv", LINES), media)
    assert (len(done.clips), done.missing) == (4, [])
    assert "Missing media: 0 of 4 rows." in done.out


def test_no_media_at_all_says_where_it_looked_and_for_what(
    prepare: Prepare, touch: Touch, save: Save, output: Path
) -> None:
    output.parent.mkdir()
    output.write_text("of an earlier run")
    done = prepare("kinetics", save("all.csv", LINES), touch("other/clip.mp4"))
    assert done.status == 2
    assert done.err.startswith("error: none of 4 rows has its file below ")
    assert "looked for archery/-aaaaaaaaaa_000001_000011 or archery/-aaaaaaaaaa (row -aaaaaaaaaa@1-11) with" in done.err
    assert "1 files such as 'other/clip.mp4'" in done.err
    assert output.read_text() == "of an earlier run"
    assert list(output.parent.iterdir()) == [output]


def test_repeated_rows_are_counted(prepare: Prepare, touch: Touch, save: Save) -> None:
    text = LINES + "archery,-aaaaaaaaaa,1,11,train\nzumba,-aaaaaaaaaa,1,11,train\narchery,-aaaaaaaaaa,2,12,train\n"
    media = touch("-aaaaaaaaaa_000001_000011.mp4", "-aaaaaaaaaa_000002_000012.mp4")
    done = prepare("kinetics", save("all.csv", text), media)
    assert [(clip.id, clip.labels) for clip in done.clips] == [
        ("-aaaaaaaaaa@1-11", ("archery",)),
        ("-aaaaaaaaaa@2-12", ("archery",)),
    ]
    assert "Rows left out as repeated: 1 (first: -aaaaaaaaaa@1-11)." in done.out
    assert "Rows left out for an earlier one of their id: 1 (first: -aaaaaaaaaa@1-11)." in done.out
    assert "Missing media: 3 of 5 rows" in done.out


def test_names_that_fit_several_files_are_counted(prepare: Prepare, touch: Touch, save: Save) -> None:
    media = touch("b/-aaaaaaaaaa_000001_000011.mp4", "a/-aaaaaaaaaa_000001_000011.mp4")
    done = prepare("kinetics", save("all.csv", LINES), media)
    assert done.clips[0].path == str(media / "a/-aaaaaaaaaa_000001_000011.mp4")
    assert "Names that fit several files: 1 ('archery/-aaaaaaaaaa_000001_000011' took a/" in done.out


def test_lone_surrogates_are_replaced_and_reported_once(prepare: Prepare, touch: Touch, save: Save) -> None:
    rows = r'[{"id": "7", "label": "x\ud83d"}, {"id": "8", "label": "\udc00"}, {"id": "9", "label": "\ud83d\ude00"}]'
    done = prepare("something_something_v2", save("test.json", rows), touch("7.mp4", "8.mp4", "9.mp4"))
    assert done.status == 0, done.err
    assert [clip.texts[0].text for clip in done.clips] == ["x\ufffd", "\ufffd", "\U0001f600"]
    assert "Rows with U+FFFD in place of invalid Unicode: 2 (first: 7)." in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing.csv", "."], "error: nothing.csv: No such file or directory"),
        (["{csv}", "nowhere"], "error: there is no folder at nowhere"),
        (["{csv}", "{csv}"], "error: there is no folder at"),
    ],
)
def test_errors_are_one_line(
    prepare: Prepare, touch: Touch, save: Save, arguments: list[str], said: str, tmp_path: Path
) -> None:
    touch("x.mp4")
    path = save("all.csv", LINES)
    done = prepare("kinetics", *(argument.format(csv=path) for argument in arguments))
    assert done.status == 2
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_output_is_jsonl(save: Save, touch: Touch, tmp_path: Path) -> None:
    """A process of its own, as a user starts it."""
    script = [sys.executable, str(ROOT / "data/kinetics/prepare.py"), str(save("all.csv", LINES)), str(touch("x.mp4"))]
    done = subprocess.run([*script, "--output", "clips.csv"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --output clips.csv: the manifest is JSONL; call it clips.jsonl\n"
    assert not (tmp_path / "clips.csv").exists()


@pytest.mark.parametrize("script", sorted(path.parent.name for path in (ROOT / "data").glob("*/prepare.py")))
def test_help_tells_how_to_call_it(prepare: Prepare, script: str) -> None:
    done = prepare(script, "--help")
    assert done.status == 0
    assert f"vatt manifest {script}" in done.out
