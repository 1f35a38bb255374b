from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vatt.datasets.manifest import (
    ManifestError,
    hold_out,
    read_manifest,
    write_manifest,
)
from vatt.structures import Clip, TimedText

ROWS = [
    {
        "path": "a b.mp4",
        "start_s": 1.5,
        "end_s": 3.0,
        "texts": [{"text": "one, two", "start": 1.0, "end": 2.0}, "three"],
        "words": [{"word": "one", "start": 1.0, "end": 1.2}],
        "labels": ["x", "y"],
        "split": "train",
        "x_mood": "calm",
    },
    {"path": "c.mp4", "text": "four", "label": "z", "split": "test", "id": "see", "audio_path": "c.wav"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a b.mp4", "c.mp4", "c.wav", "notes.txt"):
        (tmp_path / name).write_bytes(b"0")
    return tmp_path


def write(folder: Path, kind: str) -> Path:
    path = folder / f"clips.{kind}"
    if kind == "jsonl":
        path.write_text("\n".join(json.dumps(row) for row in ROWS))
    elif kind == "csv":
        columns = sorted({column for row in ROWS for column in row})

        def cell(value: object) -> str:
            text = json.dumps(value) if isinstance(value, list) else str(value)
            return '"' + text.replace('"', '""') + '"'

        lines = [",".join(columns)] + [",".join(cell(row.get(c, "")) for c in columns) for row in ROWS]
        path.write_text("\n".join(lines))
    else:
        rows = [dict(row) for row in ROWS]
        rows[0]["texts"] = [
            {"text": "one, two", "start": 1.0, "end": 2.0},
            {"text": "three", "start": None, "end": None},
        ]
        pq.write_table(pa.Table.from_pylist(rows, schema=_schema()), path)
    return path


def _schema() -> pa.Schema:
    timed = [("start", pa.float64()), ("end", pa.float64())]
    text = pa.list_(pa.struct([("text", pa.string()), *timed]))
    word = pa.list_(pa.struct([("word", pa.string()), *timed]))
    strings = ["path", "text", "label", "split", "id", "audio_path", "x_mood"]
    fields = [(name, pa.string()) for name in strings] + [("start_s", pa.float64()), ("end_s", pa.float64())]
    return pa.schema([*fields, ("texts", text), ("words", word), ("labels", pa.list_(pa.string()))])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_gives_the_same_clips(folder: Path, kind: str) -> None:
    first, second = read_manifest(write(folder, kind))
    assert first.id == "a b.mp4@1.5-3"
    assert first.path == str(folder / "a b.mp4")
    assert (first.start_s, first.end_s, first.split) == (1.5, 3.0, "train")
    assert first.texts == (TimedText("one, two", 1.0, 2.0), TimedText("three"))
    assert first.words == (TimedText("one", 1.0, 1.2),)
    assert first.labels == ("x", "y")
    assert first.extra["x_mood"] == "calm"
    assert (second.id, second.texts, second.labels) == ("see", (TimedText("four"),), ("z",))
    assert second.audio_path == str(folder / "c.wav")
    assert (second.start_s, second.end_s) == (0.0, None)


def test_a_written_manifest_reads_back_the_same(folder: Path) -> None:
    clips = read_manifest(write(folder, "jsonl"))
    write_manifest(clips, folder / "again.jsonl")
    assert read_manifest(folder / "again.jsonl") == clips
    assert json.loads((folder / "again.jsonl").read_text().splitlines()[0])["path"] == "a b.mp4"


def test_a_folder_is_a_manifest(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "d.MOV").write_bytes(b"0")
    clips = read_manifest(folder)
    assert [clip.id for clip in clips] == ["a b.mp4", "c.mp4", "c.wav", "deep/d.MOV"]


def test_links_are_followed_and_none_is_lost(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "d.mp4").write_bytes(b"0")
    (folder / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "broken.mp4").symlink_to("nowhere.mp4")
    (folder / "round.mp4").symlink_to("round.mp4")
    ids = [clip.id for clip in read_manifest(folder)]
    assert ids == ["a b.mp4", "broken.mp4", "c.mp4", "c.wav", "linked/d.mp4", "round.mp4"]


def test_a_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "locked").mkdir()
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(ManifestError, match=r"locked cannot be listed: Permission denied"):
        read_manifest(folder)


def test_one_file_is_a_manifest(folder: Path) -> None:
    assert [clip.path for clip in read_manifest(folder / "c.mp4")] == [str(folder / "c.mp4")]


def test_rows_without_an_id_are_told_apart(folder: Path) -> None:
    path = folder / "twice.jsonl"
    rows = [{"end_s": 1}, {"start_s": 12345.61, "end_s": 12346}, {"start_s": 12345.64}]
    rows += [{}, {"split": "val"}, {"split": "test"}]
    path.write_text("".join(json.dumps({"path": "c.mp4", **row}) + "\n" for row in rows))
    ids = ["c.mp4@0-1", "c.mp4@12345.61-12346", "c.mp4@12345.64-end", "c.mp4", "c.mp4#2", "c.mp4#3"]
    assert [clip.id for clip in read_manifest(path)] == ids


def test_a_cell_that_pandas_left_empty_is_empty(folder: Path) -> None:
    path = folder / "nan.jsonl"
    path.write_text('{"path": "c.mp4", "text": NaN, "split": NaN}\n')
    clip = read_manifest(path)[0]
    assert (clip.texts, clip.split) == ((), None)


def test_split_is_chosen_or_named(folder: Path) -> None:
    path = write(folder, "jsonl")
    assert [clip.id for clip in read_manifest(path, split="test")] == ["see"]
    with pytest.raises(ManifestError, match=r"no row has split 'val'.*test, train"):
        read_manifest(path, split="val")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("path,txet\nc.mp4,hello", r"line 1, column 'txet': unknown; did you mean 'text'"),
        ("file,text\nc.mp4,hello", r"line 1, column 'file': unknown"),
        ("text\nhello", r"line 1, column 'path': missing"),
        ("path,start_s\nc.mp4,1\nc.mp4,soon", r"line 3, column 'start_s': 'soon' is not a number"),
        ("path,start_s\nc.mp4,-1", r"line 2, column 'start_s': '-1' is not a time"),
        ("path,start_s,end_s\nc.mp4,2,1", r"line 2, column 'end_s': 1 is not after start_s 2"),
        ("path\nc.mp4\ngone.mp4", r"1 missing files\)\n  line 3, column 'path': no file at .*gone.mp4"),
        ("path,audio_path\nc.mp4,gone.wav", r"line 2, column 'audio_path': no file at"),
        (
            "path,id\nc.mp4,x\nc.wav,x",
            r"line 3, column 'id': 'x' is the id of another file.* in line 2",
        ),
        ("path,words\nc.mp4,one two", r"line 2, column 'words': must be a JSON list"),
        ("path,texts\nc.mp4,[3]", r"line 2, column 'texts': an item must be a text or"),
        ("path,text\nc.mp4,a,b", r"line 2: 3 cells, but the header names 2 columns"),
        ("path", r"the manifest has no rows"),
        ("", r"the file is empty"),
    ],
)
def test_what_is_wrong_is_named_with_row_and_column(folder: Path, lines: str, says: str) -> None:
    path = folder / "wrong.csv"
    path.write_text(lines)
    with pytest.raises(ManifestError, match=says):
        read_manifest(path)


def test_other_wrong_sources(folder: Path) -> None:
    (folder / "broken.jsonl").write_text('{"path": "c.mp4"}\n{"path": ')
    (folder / "list.jsonl").write_text("[1]")
    (folder / "bytes.csv").write_bytes(b"path\n\xff\xfe.mp4\n")
    (folder / "no.parquet").write_bytes(b"PAR1")
    (folder / "empty").mkdir()
    for name, says in [
        ("broken.jsonl", "line 2: not JSON"),
        ("list.jsonl", "line 1: the file seems to be one JSON array"),
        ("bytes.csv", "line 2: not UTF-8, and it does not look like Windows-1252"),
        ("no.parquet", "not a readable .parquet"),
        ("notes.txt", "a manifest ends in"),
        ("empty", "holds no media file"),
        ("gone.csv", "there is no manifest"),
    ]:
        with pytest.raises(ManifestError, match=says):
            read_manifest(folder / name)


def test_many_problems_are_counted(folder: Path) -> None:
    (folder / "bad.csv").write_text("path\n" + "\n".join(f"gone{i}.mp4" for i in range(9)))
    with pytest.raises(ManifestError, match=r"9 bad rows \(9 missing files\)(.|\n)*and 4 more"):
        read_manifest(folder / "bad.csv")


def test_holding_out_does_not_depend_on_the_order() -> None:
    clips = [Clip(id=f"clip {i}", path=str(i)) for i in range(400)]
    kept, held = hold_out(clips, 0.25)
    again = hold_out([*clips[::-1], Clip(id="new", path="new")], 0.25)[1]
    assert {clip.id for clip in held} == {clip.id for clip in again} - {"new"}
    assert 70 < len(held) < 130
    assert len(kept) + len(held) == 400


def test_rows_of_one_file_are_held_out_together() -> None:
    clips = [Clip(id=f"{i}@{j}", path=str(i)) for i in range(60) for j in range(5)]
    kept, held = hold_out(clips, 0.3)
    assert not {clip.path for clip in kept} & {clip.path for clip in held}
    assert len(held) > 20
    alone = hold_out(clips[:5] * 1, 0.5)
    assert len(alone[0]) + len(alone[1]) == 5
    one_file = hold_out([Clip(id=str(i), path="x") for i in range(100)], 0.3)
    assert min(map(len, one_file)) > 10


def test_pictures_are_rows_of_a_folder_that_holds_nothing_else(tmp_path: Path) -> None:
    for name in ("b.JPEG", "deep/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    assert [clip.id for clip in read_manifest(tmp_path)] == ["b.JPEG", "deep/a.png"]
    (tmp_path / "clip.mp4").write_bytes(b"0")
    assert [clip.id for clip in read_manifest(tmp_path)] == ["clip.mp4"]
    assert [clip.id for clip in read_manifest(tmp_path / "b.JPEG")] == ["b.JPEG"]


def test_a_manifest_behind_a_url_names_files_beside_it() -> None:
    import fsspec

    rows = '{"path": "00000.tar#512+90", "id": "a"}\n{"path": "https://host/b.mp4", "id": "b", "text": "a ring"}\n'
    with fsspec.open("memory://shards/manifest.jsonl", "w") as file:
        file.write(rows)
    clips = read_manifest("memory://shards/manifest.jsonl")
    assert [clip.path for clip in clips] == ["memory://shards/00000.tar#512+90", "https://host/b.mp4"]


def test_a_clip_in_a_shard_must_lie_inside_it(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(bytes(1000))
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"path": "0.tar#512+488"}\n')
    assert read_manifest(manifest)[0].path == f"{tmp_path}/0.tar#512+488"
    manifest.write_text('{"path": "0.tar#512+489"}\n')
    with pytest.raises(ManifestError, match=r"0\.tar#512\+489"):
        read_manifest(manifest)


def test_a_file_with_several_paths_is_held_out_as_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    names = [f"{folder}/{i}.mp4" for i in range(50) for folder in ("real", "link")]
    train, held = hold_out([Clip(id=name, path=str(tmp_path / name)) for name in names], 0.4)
    sides = [{clip.path.rpartition("/")[2] for clip in clips} for clips in (train, held)]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_pieces_of_one_file_are_held_out_together() -> None:
    clips = [
        Clip(id=f"{i}", path=f"0.tar#{i}+1", extra={"x_source": f"{i // 3}.mp4"} if i < 30 else {}) for i in range(60)
    ]
    train, held = hold_out(clips, 0.4)
    assert train
    assert held
    assert not {clip.extra.get("x_source", clip.path) for clip in train} & {
        clip.extra.get("x_source", clip.path) for clip in held
    }


def test_a_pattern_takes_the_media_files_that_match(tmp_path: Path) -> None:
    for name in ("a/x.mp4", "a/b/y.mp4", "a/b/z.wav", "a/notes.txt", "c/w.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"0")
    found = {
        pattern: [clip.id for clip in read_manifest(tmp_path / pattern)]
        for pattern in ("a/*", "a/**/*.mp4", "*/?.mp4", "**")
    }
    assert found == {
        "a/*": ["x.mp4"],
        "a/**/*.mp4": ["b/y.mp4", "x.mp4"],
        "*/?.mp4": ["a/x.mp4", "c/w.mp4"],
        "**": ["a/b/y.mp4", "a/b/z.wav", "a/x.mp4", "c/w.mp4"],
    }
    with pytest.raises(ManifestError, match=r"no media file matches .*\.txt \(found 1 .txt\)"):
        read_manifest(tmp_path / "a" / "*.txt")
    (tmp_path / "odd [1].mp4").touch()  # a file of that very name is that file
    assert [clip.id for clip in read_manifest(tmp_path / "odd [1].mp4")] == ["odd [1].mp4"]
