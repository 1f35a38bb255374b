from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.conftest import ROOT, TINY, tiny_backbone, tiny_model
from tests.datasets.loading.crashing import crash_on
from tests.media.test_audio import write_wav
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.manifest import read_manifest
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.datasets.transforms import to_float
from vatt.errors import InputError
from vatt.models.encoding import encode_texts, model_vocabulary
from vatt.models.heads import HierarchicalProjection, NoProjection
from vatt.models.vatt import VATT
from vatt.retrieval.embedder import Embedder
from vatt.retrieval.embeddings import embed
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.tables import StoreError

CORRUPTED = "corrupted.mp4"


def vectors(folder: Path) -> dict[tuple[str, str, str, float], np.ndarray]:
    """Every vector by id, modality, space and start."""
    store = Embeddings(folder)
    result = {}
    for kind in store.kinds():
        rows = store.select(*kind)
        for name, start_s, vector in zip(rows.column("id"), rows.column("start_s"), rows.vectors, strict=True):
            result[name, *kind, start_s] = vector
    return result


@pytest.fixture
def manifest(tmp_path: Path, video_file: Path, silent_file: Path, sound_file: Path) -> Path:
    path = tmp_path / "clips.jsonl"
    rows = [
        {"id": "whole", "path": str(video_file), "text": "a red ring"},
        {"id": "part", "path": str(video_file), "start_s": 0.5, "end_s": 2.0, "texts": ["a blue bar", "a green bar"]},
        {"id": "silent", "path": str(silent_file)},
        {"id": "sound", "path": str(sound_file)},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_window_gets_the_vectors_it_has_modalities_for(
    manifest: Path, model_folder: Path, tmp_path: Path
) -> None:
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    result = vectors(tmp_path / "out")
    starts = {(name, start_s) for name, modality, _, start_s in result if modality == "video"}
    spans = {name: sorted(s for n, s in starts if n == name) for name in ("whole", "part")}
    assert spans == {"whole": [0.0, 1.0, 2.0], "part": [0.5, 1.0]}  # TINY is 1 s; the last window ends with the clip
    kinds = {name: {key[1:3] for key in result if key[0] == name} for name in ("whole", "part", "silent", "sound")}
    video, audio = {("video", "video_audio"), ("video", "video_text")}, {("audio", "video_audio")}
    text = {("text", "video_text")}
    assert kinds == {"whole": video | audio | text, "part": video | audio | text, "silent": video, "sound": audio}
    assert (report.clips, report.embedded, report.windows, report.events) == (4, 4, 8, [])
    assert report.rows == len(Embeddings(tmp_path / "out").table) == 3 * 3 + 2 * 3 + 2 + 2 + 3


def test_vectors_are_those_of_the_model(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    """Against one clip at a time, read and encoded by hand."""
    embed(manifest, model_folder, tmp_path / "out", num_workers=0, batch_size=3)
    result = vectors(tmp_path / "out")
    model, reader = VATT.from_pretrained(model_folder), ClipReader(TINY)
    clip = read_manifest(manifest)[1]
    with ExitStack() as stack, torch.no_grad():
        sample = reader.read(clip, reader.open(clip, stack), 1.0)
        expected = model(video=to_float(sample["video"][None]), audio=sample["audio"][None])
    for output, key in (("video_va", ("video", "video_audio")), ("audio_va", ("audio", "video_audio"))):
        np.testing.assert_allclose(result["part", *key, 1.0], expected[output][0].numpy(), atol=1e-5)


@pytest.mark.parametrize(("batch_size", "num_workers"), [(1, 0), (8, 0), (3, 2)])
def test_neighbours_batches_and_workers_change_nothing(
    manifest: Path, model_folder: Path, tmp_path: Path, batch_size: int, num_workers: int
) -> None:
    embed(manifest, model_folder, tmp_path / "a", num_workers=0, batch_size=4)
    embed(manifest, model_folder, tmp_path / "b", num_workers=num_workers, batch_size=batch_size)
    first, second = vectors(tmp_path / "a"), vectors(tmp_path / "b")
    assert first.keys() == second.keys()
    for key, vector in first.items():
        np.testing.assert_allclose(second[key], vector, atol=1e-5, err_msg=str(key))


class Stop(Exception):
    pass


def test_what_was_stopped_is_gone_on_with(
    manifest: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is lost, nothing comes twice, and every vector is the same to the last bit."""
    whole = embed(manifest, model_folder, tmp_path / "whole", num_workers=0, shard_clips=1, batch_size=2)
    write = Embedder.write

    def stop(self: Embedder, shard: int) -> None:
        if shard == 2:
            raise Stop
        write(self, shard)

    monkeypatch.setattr(Embedder, "write", stop)
    with pytest.raises(Stop):
        embed(manifest, model_folder, tmp_path / "parts", num_workers=0, shard_clips=1, batch_size=2)
    monkeypatch.undo()
    first = tmp_path / "parts" / "embeddings.parquet" / "00000.parquet"
    written = first.stat().st_mtime_ns
    with pytest.raises(StoreError, match="2 of 4 shards"):
        Embeddings(tmp_path / "parts")
    report = embed(manifest, model_folder, tmp_path / "parts", num_workers=0, shard_clips=1, batch_size=2)
    assert report == whole
    assert first.stat().st_mtime_ns == written
    tables = [Embeddings(tmp_path / name).table for name in ("whole", "parts")]
    assert tables[0].equals(tables[1])
    assert json.loads((tmp_path / "parts/embeddings.json").read_text())["complete"]
    assert embed(manifest, model_folder, tmp_path / "parts", num_workers=0, shard_clips=1) == whole  # all is there


def test_embeddings_of_other_files_or_options_are_not_mixed(
    video_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    media, out = tmp_path / "media", tmp_path / "out"
    media.mkdir()
    shutil.copy(video_file, media / "a.mp4")
    embed(media, model_folder, out, num_workers=0)
    with pytest.raises(StoreError, match=r"\(hop_s differ\)"):
        embed(media, model_folder, out, num_workers=0, hop_s=0.5)
    (media / "a.mp4").touch()
    with pytest.raises(StoreError, match=r"\(files differ\)"):
        embed(media, model_folder, out, num_workers=0)
    assert embed(media, model_folder, out, num_workers=0, hop_s=0.5, overwrite=True).windows == 5
    assert json.loads((out / "embeddings.json").read_text())["hop_s"] == 0.5


@pytest.mark.parametrize("after_s", [0.0, 2.0])
def test_a_crash_costs_one_clip(
    model_folder: Path, video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after_s: float
) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("a", "b", "c", "d", "e"):
        shutil.copy(video_file, media / f"{name}.mp4")
    options = {"num_workers": 2, "batch_size": 2, "shard_clips": 3}
    whole = embed(media, model_folder, tmp_path / "whole", **options)
    crash_on(monkeypatch, "b.mp4", after_s=after_s)
    report = embed(media, model_folder, tmp_path / "out", **options)
    assert (whole.embedded, report.embedded) == (5, 4)
    (event,) = report.incomplete
    assert (event["kind"], event["id"], event["path"]) == ("crashed", "b.mp4", str(media / "b.mp4"))
    assert "was killed by SIGSEGV" in event["reason"]
    expected, result = vectors(tmp_path / "whole"), vectors(tmp_path / "out")
    assert result.keys() == {key for key in expected if key[0] != "b.mp4"}
    for key, vector in result.items():
        np.testing.assert_allclose(vector, expected[key], atol=1e-5)


def test_all_segments_of_a_crashing_file_are_removed(
    model_folder: Path, video_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result does not depend on which segments were read, and which shards were written, before the crash."""
    shutil.copy(video_file, tmp_path / "film.mp4")
    film = [{"path": "film.mp4", "start_s": i / 4, "end_s": 2 + i / 4, "text": f"a red ring {i}"} for i in range(8)]
    others = [{"path": str(video_file), "end_s": i, "id": f"good {i}"} for i in (1, 2)]
    shared = {"path": str(video_file), "audio_path": "film.mp4", "id": "shared"}
    rows = [others[0], *film, shared, others[1]]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    crash_on(monkeypatch, "film.mp4", after_s=1.25)
    results = []
    for num_workers, shard_clips in ((1, 2), (2, 2), (3, 2), (2, 20)):
        out = tmp_path / f"{num_workers}-{shard_clips}"
        report = embed(
            manifest, model_folder, out, num_workers=num_workers, batch_size=1, shard_clips=shard_clips,
            modalities=["audio", "text"], hop_s=0.5,
        )  # fmt: skip
        assert report.embedded == 2
        results.append(sorted(Embeddings(out).table["id"].to_pylist()))
        assert [event["kind"] for event in report.events] == ["crashed"] * 9
        for kind in ("embeddings", "pooled"):
            audio = pq.read_table(out / f"{kind}.parquet").to_pylist()
            assert {row["id"] for row in audio if row["modality"] == "audio"} == {"good 1", "good 2"}
    assert results == [results[0]] * 4  # the texts of the film remain


def test_parts_together_are_the_whole(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    whole = embed(manifest, model_folder, tmp_path / "whole", num_workers=0, shard_clips=1)
    for number, missing in ((2, 3), (3, 2)):
        report = embed(manifest, model_folder, tmp_path / "parts", num_workers=0, shard_clips=1, part=(number, 3))
        assert report.missing == missing
        with pytest.raises(StoreError, match="is incomplete"):
            Embeddings(tmp_path / "parts")
    assert embed(manifest, model_folder, tmp_path / "parts", num_workers=0, shard_clips=1, part=(1, 3)) == whole
    assert Embeddings(tmp_path / "whole").table.equals(Embeddings(tmp_path / "parts").table)
    for part in ((0, 3), (4, 3)):
        with pytest.raises(InputError, match="one of so many"):
            embed(manifest, model_folder, tmp_path / "parts", part=part)
    with pytest.raises(InputError, match="cannot overwrite"):
        embed(manifest, model_folder, tmp_path / "parts", part=(1, 3), overwrite=True)


@pytest.mark.slow
def test_processes_share_the_shards(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    embed(manifest, model_folder, tmp_path / "one", num_workers=0, shard_clips=1)
    command = [sys.executable, "-m", "vatt", "embed", str(manifest), "--model", str(model_folder), "--output"]
    command += [str(tmp_path / "two"), "--num_workers", "0", "--shard_clips", "1", "--devices", "2", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("embedded 4 of 4 clips (8 windows, 22 vectors)") == 1
    assert Embeddings(tmp_path / "one").table.equals(Embeddings(tmp_path / "two").table)


def test_a_model_without_a_common_space_is_refused(manifest: Path, tmp_path: Path) -> None:
    """It is the model that has no vectors: no file is called unreadable for it."""
    VATT(tiny_backbone().tower("video"), NoProjection(), TINY).save_pretrained(tmp_path / "alone")
    with pytest.raises(InputError, match="no common space"):
        embed(manifest, tmp_path / "alone", tmp_path / "vectors")
    assert not (tmp_path / "vectors").exists()


def test_windows_can_overlap(video_file: Path, model_folder: Path, tmp_path: Path) -> None:
    embed(video_file, model_folder, tmp_path / "out", hop_s=0.5, num_workers=0)
    starts = sorted({key[3] for key in vectors(tmp_path / "out")})
    assert starts == [0.0, 0.5, 1.0, 1.5, 2.0]


def test_so_many_windows_of_each_clip(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    embed(manifest, model_folder, tmp_path / "out", num_workers=0, windows=3)
    starts = {(name, start_s) for name, modality, _, start_s in vectors(tmp_path / "out") if modality == "video"}
    spans = {name: sorted(s for n, s in starts if n == name) for name in ("whole", "part", "silent")}
    assert spans == {"whole": [0.0, 1.0, 2.0], "part": [0.5, 0.75, 1.0], "silent": [0.0]}
    notes = json.loads((tmp_path / "out" / "embeddings.json").read_text())
    assert (notes["windows_per_clip"], notes["hop_s"]) == (3, None)
    for wrong in ({"windows": 0}, {"windows": 3, "hop_s": 1.0}):
        with pytest.raises(InputError, match="window"):
            embed(manifest, model_folder, tmp_path / "wrong", num_workers=0, **wrong)


def test_what_cannot_be_read_is_named(video_file: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "media"
    folder.mkdir()
    shutil.copy(video_file, folder / "good.mp4")
    (folder / "empty.mp4").touch()
    (folder / "page.mp4").write_text("<html>not found</html>")
    (folder / "half.mp4").write_bytes(video_file.read_bytes()[:2000])
    listed = folder / "clips.csv"
    listed.write_text("path\n" + "".join(f"{name}.mp4\n" for name in ("good", "empty", "page", "half")))
    report = embed(listed, model_folder, tmp_path / "out", num_workers=0)
    assert {event["id"] for event in report.unreadable} == {"empty.mp4", "page.mp4", "half.mp4"}
    assert {key[0] for key in vectors(tmp_path / "out")} == {"good.mp4"}
    rows = {row["id"]: row["reason"] for row in pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()}
    assert rows.keys() == {"empty.mp4", "page.mp4", "half.mp4"}
    assert all(rows.values())


def test_clipped_and_cancelled_audio_is_reported_once_per_clip(model_folder: Path, tmp_path: Path) -> None:
    tone = np.sin(np.arange(3 * 16_000))
    folder = tmp_path / "media"
    folder.mkdir()
    write_wav(folder / "loud.wav", 300 * tone)
    write_wav(folder / "opposite.wav", np.outer(tone, [0.5, -0.5]))
    write_wav(folder / "good.wav", 0.5 * tone)
    report = embed(folder, model_folder, tmp_path / "out", num_workers=0)
    assert (report.embedded, report.windows, report.incomplete) == (3, 9, [])
    events = [(row["kind"], row["id"]) for row in pq.read_table(tmp_path / "out" / "errors.parquet").to_pylist()]
    assert [event for event in events if event[1]] == [("clipped", "loud.wav"), ("cancelled", "opposite.wav")]


def test_a_file_cut_short_behind_a_whole_header_is_reported(
    video_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    """Matroska keeps its length in front: what is missing must not become frozen frames and silence."""
    import av

    whole, cut = tmp_path / "whole.mkv", tmp_path / "cut.mkv"
    with av.open(str(video_file)) as source, av.open(str(whole), "w") as target:
        streams = {s.index: target.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    report = embed(cut, model_folder, tmp_path / "out", num_workers=0)
    assert [event["kind"] for event in report.incomplete] == ["damaged"]
    assert max(key[3] for key in vectors(tmp_path / "out")) < 2.0


def test_a_sound_shorter_than_a_window_is_embedded(sound_file: Path, model_folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"id": "short", "path": str(sound_file), "start_s": 0.4, "end_s": 0.7}))
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    assert (report.embedded, report.events) == (1, [])


def test_a_clip_without_anything_for_the_model_is_named(sound_file: Path, tmp_path: Path) -> None:
    backbone = tiny_backbone()
    del backbone.tokenizers["audio"]
    projection = HierarchicalProjection({m: backbone.width(m) for m in backbone.modalities}, 12, 8)
    report = embed(sound_file, VATT(backbone, projection, TINY).eval(), tmp_path / "out", num_workers=0)
    assert [event["kind"] for event in report.unreadable] == ["unreadable"]
    assert "(video)" in report.unreadable[0]["reason"]


def test_texts_that_cannot_be_embedded_are_named_and_the_rest_is(
    video_file: Path, model_folder: Path, tmp_path: Path
) -> None:
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"id": "x", "path": str(video_file), "texts": ["a red ring", "…", "ein Kreis"]}))
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    assert [(event["kind"], event["id"]) for event in report.events] == [("skipped", "x")] * 2
    reasons = [event["reason"] for event in report.events]
    assert reasons == [f"none of the words {text!r} is in the vocabulary" for text in ("…", "ein Kreis")]
    assert list(Embeddings(tmp_path / "out").select("text", "video_text").column("text")) == ["a red ring"]
    shutil.rmtree(model_folder / "vocabulary")
    report = embed(manifest, model_folder, tmp_path / "again", num_workers=0)
    assert [event["kind"] for event in report.events] == ["skipped"]
    assert "trained without texts" in report.events[0]["reason"]
    assert ("video", "video_text") in Embeddings(tmp_path / "again").kinds()


def test_unstorable_texts_are_skipped(video_file: Path, model_folder: Path, tmp_path: Path) -> None:
    """A text of more than 64 KiB, and another column of more than 1 MiB. Half of a surrogate pair is replaced."""
    rows = [
        {"id": "half", "path": str(video_file), "texts": ["a red \ud83d", "a red " + "ring " * 20_000]},
        {"id": "large", "path": str(video_file), "end_s": 2.0, "x_boxes": "0" * 2**20},
        {"id": "late", "path": str(video_file), "start_s": 1.5, "text": "a blue bar"},
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    assert [(event["kind"], event["id"]) for event in report.events if event["id"] != "late"] == [
        ("unreadable", "large"),
        ("skipped", "half"),
    ]
    store = Embeddings(tmp_path / "out")
    assert {key[0] for key in vectors(tmp_path / "out") if key[1] == "video"} == {"half", "late"}
    texts = store.select("text", "video_text")
    assert texts.column("text") == ["a red \ufffd", "a blue bar"]
    assert (texts.column("start_s")[1], texts.column("end_s")[1]) == (1.5, 1.5)


def test_timed_words_are_texts_too(video_file: Path, model_folder: Path, tmp_path: Path) -> None:
    words = [{"word": w, "start": i / 4, "end": (i + 1) / 4} for i, w in enumerate("a red ring moves left".split())]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text(json.dumps({"id": "x", "path": str(video_file), "words": words}))
    embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    rows = Embeddings(tmp_path / "out").select("text", "video_text")
    assert list(rows.column("text")) == ["a red ring moves left"]
    assert (rows.column("start_s")[0], rows.column("end_s")[0]) == (0.0, 1.25)


def test_cut_texts_are_reported(video_file: Path, model_folder: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "clips.jsonl"
    row = {"id": "long", "path": str(video_file), "text": "a red ring moves left a blue bar moves right"}
    manifest.write_text(json.dumps(row))
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0)
    assert [(event["kind"], event["id"]) for event in report.events] == [("truncated", "long")]
    assert report.unreadable == []


def test_texts_are_encoded_as_the_model_does(vocabulary: WordVocabulary, model_folder: Path) -> None:
    model = VATT.from_pretrained(model_folder)
    with torch.no_grad():
        result, cut = encode_texts(model, ["a red ring", "a blue bar moves left a red ring"], model_vocabulary(model))
        alone, _ = encode_texts(model, ["a red ring"], vocabulary)
    torch.testing.assert_close(result[:1], alone)
    assert cut == 1
    with pytest.raises(ValueError, match=r"'  ' contains no word"):
        encode_texts(model, ["a ring", "  "], vocabulary)
    with pytest.raises(FileNotFoundError, match="not loaded from a directory"):
        model_vocabulary(tiny_model())
    shutil.rmtree(model_folder / "vocabulary")
    with pytest.raises(FileNotFoundError, match="trained without texts"):
        model_vocabulary(model)


@pytest.mark.slow
@pytest.mark.needs_shared
def test_real_files_of_many_kinds(shared: Path, model_folder: Path, tmp_path: Path) -> None:
    """Every readable file gets vectors, and of every other, or part of one, a line says why."""
    report = embed(shared / "data" / "media", model_folder, tmp_path / "out", num_workers=2)
    everything = {clip.id for clip in read_manifest(shared / "data" / "media")}
    assert len(everything) >= 13
    embedded = {key[0] for key in vectors(tmp_path / "out")}
    assert {event["id"] for event in report.unreadable} == everything - embedded
    assert CORRUPTED in {event["id"] for event in report.incomplete}
    assert all(event["reason"] for event in report.events)


def test_pooled_vectors_are_the_means_of_windows(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    embed(manifest, model_folder, tmp_path / "out", num_workers=0, shard_clips=3)
    windows: dict[tuple[str, str, str], list[np.ndarray]] = {}
    for (name, modality, space, _), vector in vectors(tmp_path / "out").items():
        if modality != "text":
            windows.setdefault((name, modality, space), []).append(vector)
    pooled = pq.read_table(tmp_path / "out" / "pooled.parquet").to_pylist()
    assert {(row["id"], row["modality"], row["space"]) for row in pooled} == windows.keys()
    for row in pooled:
        some = windows[row["id"], row["modality"], row["space"]]
        np.testing.assert_allclose(row["vector"], np.mean(some, axis=0), atol=1e-6)
        assert row["windows"] == len(some)
    spans = {row["id"]: (row["start_s"], row["end_s"]) for row in pooled}
    assert spans["part"] == (0.5, 2.0)


@pytest.mark.parametrize("modalities", [["video"], ["audio"], ["text"], ["audio", "text"]])
def test_only_what_is_wanted_is_embedded(
    manifest: Path, model_folder: Path, tmp_path: Path, modalities: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if modalities == ["text"]:  # no file is opened for it
        monkeypatch.setattr(ClipReader, "open", lambda *_: pytest.fail("a file was opened"))
    report = embed(manifest, model_folder, tmp_path / "out", num_workers=0, modalities=modalities)
    store = Embeddings(tmp_path / "out")
    assert {modality for modality, _ in store.kinds()} == set(modalities)
    without = {"video": ["sound"], "audio": ["silent"], "text": ["silent", "sound"]}[modalities[0]]
    assert [event["id"] for event in report.events] == without
    assert report.embedded == 4 - len(without)
    assert store.notes["modalities"] == sorted(modalities)
    with pytest.raises(StoreError, match=r"modalities.* differ"):
        embed(manifest, model_folder, tmp_path / "out", num_workers=0)


def test_a_modality_that_the_model_does_not_have_is_named(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not smell"):
        embed(manifest, model_folder, tmp_path / "out", modalities=["smell"])
