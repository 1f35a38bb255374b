"""Helpers for tests of the search page: an index, a server, and requests like those of a browser."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa

from tests.conftest import WORDS, tiny_model
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.retrieval.embeddings import embed
from vatt.retrieval.index import Index
from vatt.retrieval.vectors import Vectors

INPUTS = ("text", "clip", "audio", "answers", "k", "path", "where", "spans")
META = {"_type": "gradio.FileData"}
CAPTION = "a red ring moves left"


def make_site(folder: Path, video: Path, audio: Path) -> Path:
    """Build an index of a video with a caption and of an audio file, and return its directory."""
    media = folder / "media"
    media.mkdir(parents=True)
    shutil.copy(video, media / "film <b>.mp4")
    shutil.copy(audio, media / "sound.m4a")
    (media / "secret.txt").write_text("not media")
    tiny_model().save_pretrained(folder / "model")
    WordVocabulary(WORDS).save(folder / "model" / "vocabulary")
    rows = [
        {"id": str(media / "film <b>.mp4"), "path": str(media / "film <b>.mp4"), "text": CAPTION, "label": "ring"},
        {"id": "s1", "path": str(media / "sound.m4a")},
    ]
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(folder / "clips.jsonl", folder / "model", folder / "embeddings", num_workers=0)
    Index.build([folder / "embeddings"]).save(folder / "index")
    return folder / "index"


def with_files(index: Path, paths: Sequence[str], output: Path) -> Path:
    """Build an index of the same model with one row for each file, and return its directory."""
    known = Index.load(index)
    count = len(paths)
    rows = pa.table(
        {
            "id": [f"clip{number}" for number in range(count)],
            "path": list(paths),
            "start_s": np.zeros(count),
            "end_s": np.ones(count),
            "clip_start_s": np.zeros(count),
            "clip_end_s": pa.nulls(count, pa.float64()),
            "text": pa.nulls(count, pa.string()),
            "extra": pa.nulls(count, pa.string()),
        }
    )
    vectors = np.repeat(known.parts["video", "video_text"].exact()[:1], count, axis=0)
    result = Index({("video", "video_text"): Vectors.build(vectors, rows)}, known.model, known.model_folder)
    result.save(output)
    return output


@contextlib.contextmanager
def serve(app: Any) -> Iterator[str]:
    """Serve an application in a thread, and yield its address."""
    import uvicorn

    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        assert thread.is_alive()
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(20)


def values(**given: Any) -> list[Any]:
    """Return the values of the inputs of the page."""
    return [given.get(name) for name in INPUTS]


def upload(client: httpx.Client, file: Path, name: str | None = None) -> dict[str, Any]:
    """Upload a file, and return the value that a browser then sends with a query."""
    with file.open("rb") as opened:
        answer = client.post("/gradio_api/upload", files={"files": (name or file.name, opened)})
    assert answer.status_code == 200, answer.text
    (path,) = answer.json()
    return {"path": path, "url": f"{client.base_url}gradio_api/file={path}", "orig_name": file.name, "meta": META}


def post(client: httpx.Client, data: Sequence[Any], **fields: Any) -> tuple[httpx.Response, str]:
    """Submit a job without waiting for it. Return the response and the session."""
    session = uuid.uuid4().hex[:10]
    body = {"data": list(data), "fn_index": 0, "session_hash": session, **fields}
    return client.post("/gradio_api/queue/join", json=body), session


def result(client: httpx.Client, session: str) -> dict[str, Any]:
    """Return the result of a job."""
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data:") and '"process_completed"' in line:
                return json.loads(line[5:])
    raise AssertionError("the stream ended without a result")


def query(client: httpx.Client, **given: Any) -> str:
    """Return the results of a query as HTML."""
    answer, session = post(client, values(**given))
    assert answer.status_code == 200, answer.text
    message = result(client, session)
    assert message["success"], message
    return message["output"]["data"][0]
