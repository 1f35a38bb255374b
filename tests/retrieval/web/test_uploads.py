"""The upload directory, and the threads that read uploads."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import tiny_model
from tests.retrieval.fake_transcode import crash
from vatt.datasets.loading.processes import Processes
from vatt.errors import InputError
from vatt.media.types import MediaError
from vatt.models.encoding import encode_file
from vatt.retrieval.web import uploads as module
from vatt.retrieval.web.uploads import Busy, Examples, Uploads, Workers


@pytest.fixture
def uploads() -> Uploads:
    return Uploads(quota=100)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    processes = Processes(1, 60.0, fatal=lambda error: True)
    processes.run(os.getpid)  # wait until it is ready
    yield processes
    processes.stop()


def put(uploads: Uploads, file: Path, name: str = "a.mp4") -> Path:
    path = uploads.folder / "0123" / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(file, path)
    return path


def test_the_directory_is_private_and_has_a_quota(uploads: Uploads, video_file: Path) -> None:
    assert os.stat(uploads.folder).st_mode & 0o777 == 0o700
    uploads.quota = 9000  # bytes
    assert uploads.has_room()
    path = put(uploads, video_file)
    assert not uploads.has_room()
    uploads.delete(path)
    assert uploads.has_room()
    assert not list(uploads.folder.iterdir())


def test_the_same_content_under_another_name_is_another_upload(uploads: Uploads, video_file: Path) -> None:
    first, second = put(uploads, video_file, "a.mp4"), put(uploads, video_file, "b.mp4")
    uploads.delete(first)
    assert uploads.file(str(second)) == second


@pytest.mark.parametrize(
    "path",
    [
        None, 7, "", "a.mp4", "/etc/passwd", "{folder}", "{folder}/a.mp4", "{folder}/0123/../a.mp4", "{folder}/../x/y",
        "{folder}/0123/4/a.mp4", "{folder}//0123/a.mp4", "{folder}/0123/a.mp4/", "file://{folder}/0123/a.mp4",
        "http://localhost{folder}/0123/a.mp4", "{folder}/0123/a\0.mp4", "{folder}/0123/" + "x" * 5000,
        "{folder}x/0123/a.mp4", "{folder}/0123/\ud800", "{folder}/linked/a.mp4", "{folder}/0123/link.mp4",
    ],
)  # fmt: skip
def test_other_paths_are_not_uploads(uploads: Uploads, video_file: Path, path: Any) -> None:
    known = put(uploads, video_file)
    (uploads.folder / "linked").symlink_to(known.parent)
    (known.parent / "link.mp4").symlink_to("/etc/passwd")
    path = path.replace("{folder}", str(uploads.folder)) if isinstance(path, str) else path
    with pytest.raises(ValueError, match=r"not the path of an upload|surrogates"):
        uploads.check(path)
    if isinstance(path, str):
        assert uploads.file(path) is None
    assert uploads.check(str(known)) == known


def test_workers_refuse_calls_if_the_queue_is_full() -> None:
    go_on = threading.Event()
    workers = Workers("test", 1, waiting=1)
    running, waiting = workers.submit(go_on.wait, 30), workers.submit(go_on.wait, 30)
    with pytest.raises(Busy, match="the server is busy"):
        workers.submit(go_on.wait, 30)
    assert waiting.cancel()
    third = workers.submit(go_on.wait, 30)  # there is room for another one
    go_on.set()
    assert running.result(30)
    assert third.result(30)


def test_an_upload_is_encoded_once_and_again_after_an_error(
    uploads: Uploads, processes: Processes, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Examples(tiny_model(), uploads, Workers("test", 1, waiting=1), limit_s=30, processes=processes)
    path, calls, go_on = put(uploads, video_file), [], threading.Event()

    def encode(*args: Any, **options: Any) -> Any:
        calls.append(options)
        assert go_on.wait(30)
        if len(calls) == 1:
            raise InputError("cannot be read")
        return encode_file(*args, **options)

    monkeypatch.setattr(module, "encode_file", encode)

    async def run() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await examples.vectors(path)
        assert examples.is_busy(path)
        go_on.set()
        while examples.is_busy(path):
            await asyncio.sleep(0.01)
        assert not path.exists()
        with pytest.raises(InputError, match=r"the upload a\.mp4 has expired: upload it again"):
            await examples.vectors(path)
        put(uploads, video_file)
        first, second = await asyncio.gather(examples.vectors(path), examples.vectors(path))
        assert first is second
        assert (await examples.vectors(path))[1]
        assert not path.exists()

    asyncio.run(run())
    assert len(calls) == 2


def test_an_error_after_the_query_has_timed_out_is_not_logged(
    uploads: Uploads, processes: Processes, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = Examples(tiny_model(), uploads, Workers("test", 1, waiting=1), limit_s=30, processes=processes)
    path, go_on = put(uploads, video_file), threading.Event()

    def encode(*_: Any, **__: Any) -> Any:
        assert go_on.wait(30)
        raise InputError("cannot be read")

    monkeypatch.setattr(module, "encode_file", encode)
    problems: list[dict[str, Any]] = []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await examples.vectors(path)
        go_on.set()
        while examples.is_busy(path):
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)
        examples._known.clear()  # asyncio logs an error when the future is deleted
        gc.collect()

    asyncio.run(run())
    assert problems == []


def test_few_queries_wait_for_uploads(
    uploads: Uploads, processes: Processes, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    monkeypatch.setattr(module, "MAX_WAITING_PER_UPLOAD", 2)
    examples = Examples(tiny_model(), uploads, Workers("test", 1, waiting=9), limit_s=30, processes=processes)
    paths, go_on = [put(uploads, video_file, f"{name}.mp4") for name in "abc"], threading.Event()
    monkeypatch.setattr(module, "encode_file", lambda *_, **__: go_on.wait(30))

    async def run() -> None:
        waiting = [asyncio.create_task(examples.vectors(path)) for path in (paths[0], paths[0], paths[1])]
        await asyncio.sleep(0)
        for path in (paths[0], paths[1], paths[2]):
            with pytest.raises(Busy, match="the server is busy"):
                await examples.vectors(path)
        go_on.set()
        await asyncio.gather(*waiting)
        assert (await examples.vectors(paths[2])) == (True, True)
        monkeypatch.setattr(module, "MAX_WAITING", 0)
        assert (await examples.vectors(paths[0])) == (True, True)  # its vectors are known

    asyncio.run(run())


def test_too_large_frames_are_refused(
    uploads: Uploads, processes: Processes, video_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 1000)
    examples = Examples(tiny_model(), uploads, Workers("test", 1, waiting=1), limit_s=30, processes=processes)
    with pytest.raises(InputError, match="its frames have more than 1000 pixels"):
        asyncio.run(examples.vectors(put(uploads, video_file)))


@pytest.mark.parametrize("function", ["read_info", "read_windows"])
def test_an_upload_that_crashes_the_decoder_fails_alone(
    uploads: Uploads, processes: Processes, video_file: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    examples = Examples(tiny_model(), uploads, Workers("test", 1, waiting=1), limit_s=30, processes=processes)
    monkeypatch.setattr(module, function, crash)
    with pytest.raises(MediaError, match=r"a\.mp4: .* was killed by SIGABRT"):
        asyncio.run(examples.vectors(put(uploads, video_file)))
    monkeypatch.undo()
    assert not list(uploads.folder.iterdir())
    vectors, is_whole = asyncio.run(examples.vectors(put(uploads, video_file)))
    expected = encode_file(examples.model, video_file)
    assert is_whole
    assert vectors.start_s == expected.start_s
    for kind, x in vectors.vectors.items():
        torch.testing.assert_close(x, expected.vectors[kind])
