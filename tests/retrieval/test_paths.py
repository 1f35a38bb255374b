"""Media paths: absolute paths, moved directories, roots, and clips that are embedded twice."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluation.test_protocols import row
from vatt.datasets.identity import file_identity
from vatt.models.vatt import VATT
from vatt.retrieval.embeddings import embed
from vatt.retrieval.paths import (
    Location,
    absolute,
    is_absolute,
    is_below,
    is_missing,
    parent_directory,
    roots_of,
)
from vatt.retrieval.rows import replaced_clips
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.search import search
from vatt.retrieval.store import read_errors, read_notes, write_shard

pytest.importorskip("faiss")
from vatt.retrieval.index import Index

URL = "https://host/data/a.mp4"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("clips/a.mp4", "/corpus/clips/a.mp4"),
        ("./clips/../a.mp4", "/corpus/a.mp4"),
        ("/media//b/./a.mp4", "/media/b/a.mp4"),
        ("shards/0.tar#512+90", "/corpus/shards/0.tar#512+90"),
        (URL, URL),
    ],
)
def test_paths_are_absolute_and_normalized(path: str, expected: str) -> None:
    assert absolute(path, "/corpus") == expected
    assert is_absolute(expected)
    assert is_absolute(path) == (path == URL)


def test_directories_of_files_members_and_urls() -> None:
    paths = ["/a/b.mp4", "/a/0.tar#5+6", URL, "https://host/a.tar#5+6", "https://host/a.mp4?key=b/c", "s3://bucket/a"]
    expected = ["/a", "/a", "https://host/data", "https://host", "https://host", "s3://bucket"]
    assert [parent_directory(path) for path in paths] == expected


def test_roots_are_few_and_contain_all_directories() -> None:
    assert roots_of(["/a/b", "/a/b/c", "/a/bc", "/d"]) == ("/a/b", "/a/bc", "/d")
    many = [f"/data/{i % 7}/{i}" for i in range(500)]
    roots = roots_of([*many, "/x/y"])
    assert roots == (*(f"/data/{i}" for i in range(7)), "/x/y")
    assert all(is_below(f"{directory}/a.mp4", roots) for directory in many)
    assert roots_of([f"/{i}" for i in range(500)])[0] != "/"
    assert roots_of([f"https://host/{i}/b" for i in range(500)]) == ("https://host",)


def test_is_below() -> None:
    assert is_below("/a/b.mp4", ["/c", "/a"])
    assert not is_below("/ab/c.mp4", ["/a"])
    assert not is_below("/etc/passwd", ["https://host", "/a"])
    assert is_below(URL, ["https://host"])
    assert not is_below("https://host.example/a", ["https://host"])
    assert not is_below("https://host/data/../secret", ["https://host/data"])


def test_missing_file_is_searched_relative_to_the_moved_directory(tmp_path: Path) -> None:
    (tmp_path / "new" / "media").mkdir(parents=True)
    (tmp_path / "new" / "media" / "a.mp4").write_bytes(b"0123456789")
    here = Location(str(tmp_path / "new" / "run" / "index"), "/old/run/index")
    assert here.resolve("/old/media/a.mp4") == str(tmp_path / "new" / "media" / "a.mp4")
    assert here.resolve("/old/media/a.mp4#2+3") == str(tmp_path / "new" / "media" / "a.mp4#2+3")
    assert here.resolve("/old/media/a.mp4#2+30") == "/old/media/a.mp4#2+30"  # the file is too short
    assert here.resolve("/old/media/gone.mp4") == "/old/media/gone.mp4"
    assert here.resolve(URL) == URL
    assert here.resolve(str(tmp_path / "new" / "media")) == str(tmp_path / "new" / "media")
    assert Location("/a", None).resolve("/b") == "/b"
    assert not is_missing(URL)
    assert is_missing("/a\0b")


def test_clips_are_the_same_by_file_and_id_or_by_file_and_segment(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    real, link = (str(tmp_path / name / "a.mp4") for name in ("real", "link"))
    assert file_identity(real) == file_identity(link)
    old = {
        ("a", real): (0, 3000),
        ("b", real): (3000, 6000),
        ("c", real): (6000, math.inf),
        ("a", real + "x"): (0, 3000),
        ("u", URL): (0, 1000),
    }
    assert replaced_clips(old, {("a", link): (50_000, 60_000)}) == {("a", real)}
    assert replaced_clips(old, {("other", f"file://{link}"): (0, 3000)}) == {("a", real)}
    assert replaced_clips(old, {("other", link): (3000, 6000)}) == {("b", real)}
    assert replaced_clips(old, {("other", link): (6000, math.inf)}) == {("c", real)}
    assert replaced_clips(old, {("other", link): (3000, 6001)}) == set()
    assert replaced_clips(old, {("other", link): (0, 6000)}) == set()
    assert replaced_clips(old, {("other", URL): (0, 1000)}) == {("u", URL)}


@pytest.fixture
def corpus(tmp_path: Path, video_file: Path, silent_file: Path) -> Path:
    """Return a directory with two clips and a manifest with relative paths."""
    folder = tmp_path / "tree" / "corpus"
    (folder / "clips").mkdir(parents=True)
    shutil.copy(video_file, folder / "clips" / "a.mp4")
    shutil.copy(silent_file, folder / "clips" / "b.mp4")
    (folder / "clips.csv").write_text("path,text\nclips/a.mp4,a red ring\nclips/b.mp4,a blue bar\n")
    return folder


@pytest.fixture
def run(corpus: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Embed and index the corpus with relative paths, from inside its directory."""
    run = corpus.parent / "run"
    shutil.copytree(model_folder, run / "model")
    with monkeypatch.context() as context:
        context.chdir(corpus)
        embed("clips.csv", "../run/model", "../run/embeddings", num_workers=0)
        Index.build(["../run/embeddings"]).save("../run/index")
    return run


def test_relative_manifest_paths_work_from_any_directory(
    run: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = read_notes(run / "embeddings")
    assert notes["roots"] == [str(corpus / "clips")]
    assert notes["folder"] == str(run / "embeddings")
    assert notes["model_folder"] == str(run / "model")
    assert notes["source"] == str(corpus / "clips.csv")
    paths = [str(corpus / "clips" / name) for name in ("a.mp4", "b.mp4")]
    for name in ("embeddings.parquet", "pooled.parquet"):
        assert sorted(set(pq.read_table(run / "embeddings" / name)["path"].to_pylist())) == paths
    monkeypatch.chdir("/")
    index = Index.load(run / "index")
    assert index.roots == (str(corpus / "clips"),)
    hits = search(index, "a red ring")
    assert sorted(hit.path for hit in hits) == paths
    assert not any(hit.missing for hit in hits)
    assert hits.notices == ()
    assert sorted(hit.path for hit in search(index, "a red ring", path=f"{corpus}/*/?.mp4")) == paths


@pytest.mark.parametrize("again", ["folder", "link", "manifest"])
def test_reembedded_files_are_replaced(run: Path, corpus: Path, model_folder: Path, tmp_path: Path, again: str) -> None:
    """Embed the directory, a link to it (both give other ids and no captions), or the same manifest."""
    sources = {"folder": corpus / "clips", "link": tmp_path / "link", "manifest": corpus / "clips.csv"}
    (tmp_path / "link").symlink_to(corpus / "clips")
    embed(sources[again], run / "model", tmp_path / "again", num_workers=0)
    index = Index.load(run / "index", mapped=False)
    before = index.kinds()
    added = index.add([tmp_path / "again"])
    assert added == len(Embeddings(tmp_path / "again").table)
    has_captions = again == "manifest"
    assert index.kinds() == [
        (part, space, 0 if part == "text" and not has_captions else n) for part, space, n in before
    ]
    index.save(run / "index")
    hits = search(run / "index", "a red ring", k=9)
    assert len({hit.path for hit in hits}) == len(hits) == 2


def test_other_segments_of_a_file_are_kept(run: Path, corpus: Path, tmp_path: Path) -> None:
    rows = [{"path": str(corpus / "clips" / "a.mp4"), "id": "part", "start_s": 1.0, "end_s": 2.0}]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(tmp_path / "parts.jsonl", run / "model", tmp_path / "parts", num_workers=0)
    index = Index.load(run / "index", mapped=False)
    before = len(index)
    assert index.add([tmp_path / "parts"]) == 3
    assert len(index) == before + 3


def test_segments_with_the_same_window_are_different_clips(corpus: Path, model_folder: Path, tmp_path: Path) -> None:
    """With one window per clip, that of a whole file of 3 s and those of segments around its middle coincide."""
    (corpus / "parts.csv").write_text(
        "path,text,start_s,end_s\nclips/a.mp4,a red ring,,\nclips/a.mp4,a blue bar,1,2\nclips/a.mp4,a dog,0.5,2.5\n"
    )
    (corpus / "again.csv").write_text("path,text,start_s,end_s\nclips/a.mp4,a blue bar,1,2.0000001\n")
    for name in ("parts", "again"):
        embed(corpus / f"{name}.csv", model_folder, tmp_path / name, num_workers=0, windows=1)
    embeddings = Embeddings(tmp_path / "parts")
    rows = embeddings.select("video", "video_text")
    assert len({*zip(rows.column("start_s"), rows.column("end_s"), strict=True)}) == 1
    assert len({*embeddings.clips(rows)}) == 3
    assert embeddings.num_repeated == 0
    segments = [("clip_start_s", [0.0, 1.0, 0.5]), ("clip_end_s", [None, 2.0, 2.5])]
    for name, values in segments:
        assert rows.column(name) == values
        assert pq.read_table(tmp_path / "parts" / "pooled.parquet")[name].to_pylist()[::3] == values
    Index.build([tmp_path / "parts"]).save(tmp_path / "index")
    index = Index.load(tmp_path / "index", mapped=False)
    before = index.kinds()
    index.add([tmp_path / "again"])
    assert index.kinds() == before
    ids = ["clips/a.mp4", "clips/a.mp4@0.5-2.5", "clips/a.mp4@1-2"]
    assert sorted(index.rows(("video", "video_text")).column("id").to_pylist()) == ids
    assert len(search(index, "a red ring", k=9)) == 1  # one moment of the file


def test_directory_with_media_and_index_can_be_moved(run: Path, corpus: Path, tmp_path: Path) -> None:
    old = corpus.parent
    expected = [(hit.id, hit.score, Path(hit.path).relative_to(old)) for hit in search(run / "index", "a red ring")]
    new = tmp_path / "mounted" / "elsewhere"
    new.parent.mkdir()
    old.rename(new)
    index = Index.load(new / "run" / "index")
    assert index.model_folder == new / "run" / "model"
    assert set(index.roots) == {str(corpus / "clips"), str(new / "corpus" / "clips")}
    hits = search(index, "a red ring")
    assert [(hit.id, hit.score, Path(hit.path).relative_to(new)) for hit in hits] == expected
    assert not any(hit.missing for hit in hits)
    for pattern in (f"{new}/*/a.mp4", f"{old}/*/a.mp4"):  # new and old paths
        assert {Path(hit.path).name for hit in search(index, "a red ring", path=pattern)} == {"a.mp4"}
    # Moved embeddings are indexed and a moved index is changed with the present paths. Both can be moved again.
    Index.build([new / "run" / "embeddings"]).save(tmp_path / "built")
    index.remove("*/b.mp4")
    index.save(new / "run" / "index")
    for folder in (tmp_path / "built", new / "run" / "index"):
        record = json.loads((folder / "index.json").read_text())
        assert record["roots"] == [str(new / "corpus" / "clips")]
        assert record["folder"] == str(folder)
    again = tmp_path / "third"
    new.rename(again)
    hits = search(again / "run" / "index", "a red ring")
    assert [hit.path for hit in hits] == [str(again / "corpus" / "clips" / "a.mp4")]


def test_filters_of_a_moved_index_are_of_present_paths(run: Path, corpus: Path, tmp_path: Path) -> None:
    """For the removal of clips, and for the reason why a filter matches nothing."""
    old, new = corpus.parent, tmp_path / "elsewhere"
    old.rename(new)
    index = Index.load(new / "run" / "index")
    (notice,) = search(index, "a red ring", path="*/nothing/*").notices
    assert f"paths are, for example, {new}/corpus/clips/a.mp4 and {new}/corpus/clips/b.mp4" in notice
    rows = index.parts["video", "video_text"].rows
    extra = pa.array(['{"split": "test"}'] * len(rows), pa.string())
    index.parts["video", "video_text"].relabel(rows.set_column(rows.schema.get_field_index("extra"), "extra", extra))
    (notice,) = search(index, "a red ring", path=f"{new}/*", where="split=train").notices
    assert notice.startswith("the condition 'split=train' matches none of ")
    before = len(index)
    assert index.remove(f"{new}/nothing/*") == 0
    assert index.remove(f"{new}/*/a.mp4") > 0
    assert index.remove(f"{old}/*/b.mp4") > 0
    assert (before > 0, len(index)) == (True, 0)


def test_a_moved_index_is_found_through_a_link(run: Path, tmp_path: Path) -> None:
    tree = tmp_path / "moved"
    run.parent.rename(tree)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "index").symlink_to(tree / "run" / "index")
    hits = search(tmp_path / "links" / "index", "a red ring", model=tree / "run" / "model")
    assert {hit.path for hit in hits} == {str(tree / "corpus" / "clips" / name) for name in ("a.mp4", "b.mp4")}
    assert not any(hit.missing for hit in hits)


def test_an_index_that_did_not_move_is_found_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(run / "index")
    index = Index.load(tmp_path / "link")
    assert not index.location.moved
    assert not any(hit.missing for hit in search(index, "a red ring"))


def test_missing_files_are_reported(run: Path, corpus: Path) -> None:
    (corpus / "clips" / "b.mp4").unlink()
    hits = search(run / "index", "a red ring")
    assert {(Path(hit.path).name, hit.missing) for hit in hits} == {("a.mp4", False), ("b.mp4", True)}
    assert {hit.to_dict()["missing"] for hit in hits} == {False, True}
    assert hits.missing == [str(corpus / "clips" / "b.mp4")]
    assert hits.describe_missing().startswith(f"1 of the 2 result files is missing: {corpus / 'clips' / 'b.mp4'}; ")


def test_model_is_found_at_its_path_or_relative_to_the_index(run: Path, tmp_path: Path) -> None:
    shutil.move(run / "index", tmp_path / "index")  # without the model
    assert Index.load(tmp_path / "index").model_folder == run / "model"
    shutil.rmtree(run / "model")
    assert Index.load(tmp_path / "index").model_folder == tmp_path / "model"
    assert Embeddings(run / "embeddings").model_folder == run / "model"


def test_directory_is_its_own_root_and_invalid_names_are_reported(
    corpus: Path, model_folder: Path, tmp_path: Path
) -> None:
    odd = os.fsencode(corpus / "clips") + b"/caf\xe9.mp4"
    shutil.copy(corpus / "clips" / "a.mp4", odd)
    report = embed(corpus / "clips", model_folder, tmp_path / "out", num_workers=0)
    assert read_notes(tmp_path / "out")["roots"] == [str(corpus / "clips")]
    assert (report.embedded, report.clips) == (2, 3)
    (event,) = read_errors(tmp_path / "out")
    assert event["reason"] == "its path is not valid Unicode: rename the file"
    assert event["path"].endswith("caf\\xe9.mp4")


def test_roots_of_several_sources_are_merged(tmp_path: Path) -> None:
    for name, path in (("one", "/data/a/v.mp4"), ("two", "/data/a/b/v.mp4"), ("three", URL)):
        write_shard(tmp_path / name, "m", [row("v", "video", "video_text", [1.0, 0.0]) | {"path": path}])
    index = Index.build([tmp_path / "one", tmp_path / "two"])
    assert index.roots == ("/data/a",)
    index.add([tmp_path / "three"])
    index.save(tmp_path / "index")
    assert Index.load(tmp_path / "index").roots == ("/data/a", "https://host/data")
    hits = Index.load(tmp_path / "index").search(np.array([[1.0, 0.0]], np.float32), "m")[0]
    assert {hit.path: hit.missing for hit in hits} == {"/data/a/v.mp4": True, "/data/a/b/v.mp4": True, URL: False}


def test_resume_with_another_path_of_the_same_manifest(
    corpus: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = VATT.from_pretrained(model_folder)
    report = embed(corpus / "clips.csv", model, tmp_path / "out", num_workers=0)
    monkeypatch.chdir(corpus)
    assert embed("clips.csv", model, tmp_path / "out", num_workers=0) == report
