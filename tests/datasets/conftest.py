from __future__ import annotations

from pathlib import Path

import pytest

from vatt.structures import Clip, TimedText


@pytest.fixture
def clips(video_file: Path, silent_file: Path, sound_file: Path) -> list[Clip]:
    return [
        Clip(id="whole", path=str(video_file), texts=(TimedText("a red ring"),)),
        Clip(id="part", path=str(video_file), start_s=1.0, end_s=2.5, texts=(TimedText("a blue bar"),)),
        Clip(id="silent", path=str(silent_file)),
        Clip(id="sound", path=str(sound_file), texts=(TimedText("moves left"),)),
        Clip(id="two files", path=str(silent_file), audio_path=str(sound_file)),
    ]
