from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from tests.conftest import tiny_model
from tests.datasets.loading.crashing import crash_on
from tests.evaluation.test_protocols import row
from vatt.errors import InputError
from vatt.models.encoding import encode_file, encode_texts, model_vocabulary
from vatt.models.vatt import VATT
from vatt.retrieval.embeddings import embed
from vatt.retrieval.index import Index, IndexMismatch
from vatt.retrieval.saved_embeddings import Embeddings
from vatt.retrieval.search import search
from vatt.retrieval.store import write_shard
from vatt.retrieval.tables import StoreError

pytest.importorskip("faiss")
QUERIES = ["a red ring", "a blue bar moves left"]


@pytest.fixture
def index(model_folder: Path, video_file: Path, tmp_path: Path) -> Path:
    embed(video_file, model_folder, tmp_path / "embeddings", num_workers=0)
    Index.build([tmp_path / "embeddings"]).save(tmp_path / "index")
    return tmp_path / "index"


def test_a_text_finds_the_windows_nearest_to_it(index: Path, model_folder: Path, tmp_path: Path) -> None:
    model = VATT.from_pretrained(model_folder)
    with torch.no_grad():
        queries, _ = encode_texts(model, QUERIES, model_vocabulary(model))
    windows = Embeddings(tmp_path / "embeddings").select("video", "video_text")
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], torch.tensor(windows.vectors)[None], dim=-1)
    for query, expected in zip(QUERIES, cosine.numpy(), strict=True):
        hits = search(index, query, k=3, spans=False)
        order = np.argsort(-expected)
        assert [hit.start_s for hit in hits] == [windows.column("start_s")[i] for i in order]
        assert [hit.score for hit in hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
    best = sorted(cosine[0].tolist(), reverse=True)[:2]
    assert [hit.score for hit in search(index, QUERIES[0], k=2, spans=False)] == pytest.approx(best, abs=1e-5)


def test_the_model_is_found_again_or_asked_for(index: Path, model_folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.move(model_folder, moved)
    with pytest.raises(StoreError, match="--model"):
        search(index, QUERIES[0])
    assert search(index, QUERIES[0], k=1, model=moved)


def test_another_model_is_refused(index: Path, model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    tiny_model().save_pretrained(tmp_path / "other")
    shutil.copytree(model_folder / "vocabulary", tmp_path / "other" / "vocabulary")
    with pytest.raises(IndexMismatch, match="the query is of model"):
        search(index, QUERIES[0], model=tmp_path / "other")


def test_unknown_words_are_reported(index: Path, model_folder: Path) -> None:
    with pytest.raises(InputError, match="none of the words 'ein roter Kreis' is in the model's vocabulary"):
        search(index, "ein roter Kreis")
    assert search(index, "a roter ring of Kreis, roter").notices == (
        "not in the model's vocabulary: 'roter', 'of', 'kreis'",
    )
    assert search(index, "a red ring").notices == ()
    cut = search(index, "a red ring moves left a blue bar").notices
    assert cut == ("the query has 8 tokens; the last 2 are ignored",)
    model = VATT.from_pretrained(model_folder)
    with pytest.raises(InputError, match="none of the words 'Kreis' is in"):
        model.encode_text(["a ring", "Kreis"])
    with pytest.warns(UserWarning, match="not in the model's vocabulary: 'roter'"):
        model.encode_text("a roter ring")
    with pytest.warns(UserWarning, match="the text has 7 tokens; the last one is ignored"):
        model.encode_text("a red ring moves left a blue")


@pytest.mark.parametrize("compact", [False, True])
def test_an_empty_index_is_named(index: Path, model_folder: Path, compact: bool) -> None:
    changed = Index.load(index, mapped=False)
    changed.remove("*")
    if compact:
        changed.compact()
    vectors = {"video_text": np.ones(8, np.float32)}
    with pytest.raises(StoreError, match="the index is empty"):
        changed.search_spaces(vectors, changed.model)
    changed.save(index)
    with pytest.raises(StoreError, match=f"^{index}: the index is empty; build it again"):
        search(index, "a red ring", model=model_folder)


def test_a_modality_without_vectors_is_named(many: Path, video_file: Path) -> None:
    index = Index.load(many)
    for name, part in index.parts.items():
        if name[0] == "audio":
            part.keep(np.zeros(part.total, bool))
    with pytest.raises(IndexMismatch, match="no audio in the video_audio space; it has text in video_text, video in"):
        search(index, video=video_file, answers="audio")
    del index.parts["audio", "video_audio"], index.parts["video", "video_audio"]
    with pytest.raises(IndexMismatch, match="the index has no audio in the video_"):
        search(index, video=video_file, answers="audio")


@pytest.mark.parametrize("k", [0, -3])
def test_the_number_of_results_is_named_as_it_was_given(index: Path, k: int) -> None:
    with pytest.raises(InputError, match=f"^k must be at least 1, not {k}$"):
        search(index, "a red ring", k=k)


def test_an_empty_query_is_refused(index: Path) -> None:
    with pytest.raises(ValueError, match="no word"):
        search(index, "   ")


@pytest.fixture
def many(model_folder: Path, video_file: Path, silent_file: Path, sound_file: Path, tmp_path: Path) -> Path:
    rows = [
        {"id": "loud", "path": str(video_file), "text": "a red ring", "label": "ring", "split": "test"},
        {"id": "silent", "path": str(silent_file), "text": "a blue bar moves left", "split": "train"},
        {"id": "heard", "path": str(sound_file)},
    ]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(tmp_path / "clips.jsonl", model_folder, tmp_path / "all", num_workers=0, hop_s=0.5)
    Index.build([tmp_path / "all"]).save(tmp_path / "many")
    return tmp_path / "many"


def test_a_file_finds_itself(many: Path, video_file: Path, silent_file: Path, sound_file: Path) -> None:
    """By picture and by sound, among videos, sounds and with words."""
    best = search(many, video=silent_file, k=1)[0]  # of one window, unlike the others
    assert (best.id, best.score) == ("silent", pytest.approx(1.0, abs=1e-5))
    assert {hit.id for hit in search(many, video=video_file)} == {"loud", "silent"}
    assert {hit.id for hit in search(many, audio=sound_file, answers="audio")} == {"loud", "heard"}
    found = search(many, "a red ring", video=video_file, audio=sound_file, k=9, spans=False)
    assert {hit.id for hit in found} == {"loud", "silent"}
    with pytest.raises(InputError, match="has no audio track"):
        search(many, audio=silent_file)
    with pytest.raises(InputError, match="has no video track"):
        search(many, video=sound_file)
    with pytest.raises(InputError, match="the query is empty"):
        search(many)
    with pytest.raises(IndexMismatch, match="no audio in the video_text space"):
        search(many, "a red ring", answers="audio")
    with pytest.raises(InputError, match=r"nowhere\.mp4"):
        search(many, video="nowhere.mp4")


@pytest.mark.parametrize("name", ["video", "audio"])
def test_an_example_that_crashes_the_decoder_is_an_error(
    many: Path, video_file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    crash_on(monkeypatch, video_file.name, after_s=1.0)
    with pytest.raises(InputError, match=f"^{video_file}: the process that read it was killed by SIGSEGV"):
        search(many, **{name: video_file})


def test_several_spaces_are_averaged(many: Path, model_folder: Path, video_file: Path, tmp_path: Path) -> None:
    model, store = VATT.from_pretrained(model_folder), Embeddings(tmp_path / "all")
    text = search(many, "a red ring", k=50, spans=False)
    file = encode_file(model, video_file)
    expected = {}
    sounds = store.select("video", "video_audio")
    for name, start_s, vector in zip(sounds.column("id"), sounds.column("start_s"), sounds.vectors, strict=True):
        cosine = float(vector @ file.pooled("audio", "video_audio").numpy()) / np.linalg.norm(vector)
        same = [hit.score for hit in text if (hit.id, hit.start_s) == (name, start_s)]
        if same:
            expected[name, start_s] = (cosine + same[0]) / 2
    both = search(many, "a red ring", audio=video_file, k=50, spans=False)
    assert len(both) > 2
    for hit in both:
        if (hit.id, hit.start_s) in expected:
            assert hit.score == pytest.approx(expected[hit.id, hit.start_s], abs=1e-5)


def test_answers_are_filtered_and_merged(many: Path) -> None:
    assert {hit.id for hit in search(many, "a red ring", k=20, where="labels=ring")} == {"loud"}
    assert {hit.id for hit in search(many, "a red ring", k=20, where="split=train")} == {"silent"}
    nothing = search(many, "a red ring", k=20, path="*.nothing")
    assert nothing == []
    start = "the path pattern '*.nothing' matches none of 6 rows; paths are, for example, /"
    assert nothing.notices[0].startswith(start)
    (notice,) = search(many, "a red ring", where="split=val").notices
    assert notice == "the condition 'split=val' matches none of 6 rows; values of 'split' are test, train"
    (notice,) = search(many, "a red ring", where="split=train", path="*/numbered.mp4").notices
    assert notice.startswith("none of 6 rows matches both the path pattern")
    assert search(many, "a red ring", k=20, where="split=train").notices == ()  # no notice for fewer than 20 results
    assert [hit.text for hit in search(many, "a red ring", k=1, answers="text")] == ["a red ring"]
    spans = search(many, "a red ring", k=20)
    assert {(hit.id, hit.start_s) for hit in spans} == {("loud", 0.0), ("silent", 0.0)}
    assert max(hit.end_s - hit.start_s for hit in spans) > 2.5  # longer than the model's second
    assert [hit.rank for hit in spans] == [1, 2]


def test_splits_of_a_condition_are_reported(many: Path) -> None:
    hits = search(many, "a red ring", where="split=Training")
    assert {hit.id for hit in hits} == {"silent"}
    assert hits.notices == ("the condition 'split=Training': split 'train' is used as 'Training'",)
    assert not search(many, "a red ring", where="split=test").notices


def test_silent_examples_are_reported(many: Path, model_folder: Path, tmp_path: Path) -> None:
    silence, notice = tmp_path / "silence.wav", "its audio is silent (peak below -60 dB)"
    wavfile.write(silence, 16_000, np.zeros(16_000, np.float32))
    assert search(many, audio=silence).notices == (f"{silence}: {notice}",)
    encoded = encode_file(VATT.from_pretrained(model_folder), silence)  # as the page does
    assert search(many, audio=encoded).notices == (f"the example file: {notice}",)


def test_files_with_many_rows_are_listed_once(model_folder: Path, tmp_path: Path) -> None:
    """12 files of two windows, with 20 rows each, as embeddings of one row per caption have them."""
    model, rng = VATT.from_pretrained(model_folder), np.random.default_rng(0)
    rows = []
    for i in range(12):
        windows = rng.normal(size=(2, 8))
        for j in range(20):
            known = {"path": str(tmp_path / f"{i}.mp4"), "extra": json.dumps({"x_year": 2000.0 + i})}
            rows += [
                row(f"{i}-{j}", "video", "video_text", x) | known | {"start_s": float(k), "end_s": k + 1.0}
                for k, x in enumerate(windows)
            ]
            rows.append(row(f"{i}-{j}", "text", "video_text", windows[0], f"caption {j % 2}") | known)
    write_shard(tmp_path / "copies", model.model_hash(), rows)
    index = Index.build([tmp_path / "copies"])
    for spans in (True, False):
        hits = search(index, "a red ring", k=10, model=model, spans=spans)
        moments = [(hit.path, hit.start_s) for hit in hits]
        assert len(hits) == len(set(moments)) == 10
        assert not spans or len({hit.path for hit in hits}) == 10
    texts = search(index, "a red ring", k=99, model=model, answers="text")
    assert len({(hit.path, hit.text) for hit in texts}) == len(texts) == 24
    (hit,) = search(index, "a red ring", model=model, where="x_year=2003")
    assert hit.path == str(tmp_path / "3.mp4")
