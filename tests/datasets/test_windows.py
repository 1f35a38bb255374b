from __future__ import annotations

from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from tests.conftest import TINY
from vatt.datasets.batches import collate
from vatt.datasets.clips import ClipReader
from vatt.datasets.windows import WindowStream, window_starts
from vatt.structures import Clip


def test_windows_cover_a_clip_to_its_end() -> None:
    assert window_starts(0.0, 0.0, 1.0) == [0.0]
    assert window_starts(1.0, 3.0, 1.0) == [1.0, 2.0, 3.0]
    assert window_starts(0.0, 2.5, 1.0) == [0.0, 1.0, 2.0, 2.5]
    assert window_starts(0.0, 0.3, 1.0) == [0.0, 0.3]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_stream_gives_every_window_and_every_error(clips: list[Clip], tmp_path: Path, workers: int) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    rows = [*clips, Clip(id="bad", path=str(tmp_path / "broken.mp4"))]
    loader = DataLoader(
        WindowStream(rows, ClipReader(TINY), hop_s=1.0), batch_size=4, num_workers=workers, collate_fn=collate
    )
    batches = list(loader)
    found = sorted(
        (n, round(s, 2), round(e, 2))
        for b in batches
        for n, s, e in zip(b["id"], b["start_s"], b["end_s"], strict=True)
    )
    assert found == [
        ("bad", 0.0, 0.0),
        ("part", 1.0, 2.0),
        ("part", 1.5, 2.5),
        ("silent", 0.0, 1.0),
        ("sound", 0.0, 1.0),
        ("sound", 1.0, 2.0),
        ("two files", 0.0, 1.0),
        ("two files", 1.0, 2.0),
        ("whole", 0.0, 1.0),
        ("whole", 1.0, 2.0),
        ("whole", 2.0, 3.0),
    ]
    assert [e["id"] for b in batches for e in b["events"]] == ["bad"]
