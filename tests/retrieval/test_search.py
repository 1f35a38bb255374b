from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import tiny_model
from vatt.models.vatt import VATT
from vatt.retrieval.embeddings import embed
from vatt.retrieval.index import Hit, Index, IndexMismatch
from vatt.retrieval.search import RIGHT, draw_sheet, search, search_texts
from vatt.retrieval.store import Embeddings, StoreError
from vatt.retrieval.texts import encode_texts, model_vocabulary

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
    for hits, expected in zip(search_texts(index, QUERIES, k=3), cosine.numpy(), strict=True):
        order = np.argsort(-expected)
        assert [hit.start_s for hit in hits] == [windows.column("start_s")[i] for i in order]
        assert [hit.score for hit in hits] == pytest.approx(expected[order].tolist(), abs=1e-5)
    best = sorted(cosine[0].tolist(), reverse=True)[:2]
    assert [hit.score for hit in search(index, QUERIES[0], k=2)] == pytest.approx(best, abs=1e-5)


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


def test_an_empty_query_is_refused(index: Path) -> None:
    with pytest.raises(ValueError, match="no word"):
        search(index, "   ")


def test_a_sheet_frames_the_right_answer_and_no_other(video_file: Path, tmp_path: Path) -> None:
    hits = [Hit(rank, 0.5, name, str(video_file), 0.0, 2.0) for rank, name in ((1, "wrong"), (2, "right"))]
    for right_id, count in (("right", 1), (None, 0)):
        draw_sheet("a query", hits, tmp_path / "sheet.png", right_id)
        picture = np.asarray(Image.open(tmp_path / "sheet.png"))
        green = (picture == RIGHT).all(axis=-1)
        columns = np.flatnonzero(green.sum(axis=0) > 100)  # the uprights of a frame
        assert len(columns) == 10 * count
        assert all(columns > 590)  # the right half, with its margin


def test_a_sheet_is_drawn_when_a_file_is_gone(tmp_path: Path) -> None:
    draw_sheet("a query", [Hit(1, 0.5, "gone", str(tmp_path / "gone.mp4"), 0.0, 2.0)], tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").is_file()
