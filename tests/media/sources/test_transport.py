from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import numbered_frames
from tests.media.clocks import tone, write
from vatt.media.decoding import open_media
from vatt.media.sources.transport import find_pids
from vatt.media.transcode import Encoding, transcode
from vatt.media.types import MediaError
from vatt.preparation.scan.file import scan_file


@pytest.mark.parametrize("codec", ["mp2", "aac"])
@pytest.mark.parametrize("is_video_first", [True, False])
def test_a_pid_that_changes_its_kind_is_refused(tmp_path: Path, codec: str, is_video_first: bool) -> None:
    path, samples = tmp_path / "a.ts", tone(440, 1, 48_000)
    whole = write(path, "libx264", codec, samples, 48_000, numbered_frames(25), {"bf": "0"})
    assert scan_file(str(path), 2, 60.0).status == "ok"
    audio = write(path, None, codec, samples, 48_000)  # under the PID of the video
    first, second = (whole, audio) if is_video_first else (audio, whole)
    path.write_bytes(first + second)
    at = find_pids(str(path), len(first + second))[256].changes_at
    assert at is not None
    assert len(first) <= at < len(first) + 1000
    kind = "video" if is_video_first else "audio"
    reason = f"PID 256 is {kind} first and carries another kind of track near byte {at}: split the file there"
    with pytest.raises(MediaError, match=reason):
        open_media(path)
    with pytest.raises(MediaError, match=reason):
        transcode(str(path), tmp_path / "new.mp4", Encoding())
    facts = scan_file(str(path), 2, 60.0)
    assert (facts.status, facts.reason) == ("unreadable", reason)
