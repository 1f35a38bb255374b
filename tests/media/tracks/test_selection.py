from __future__ import annotations

from pathlib import Path

import av

from tests.media.clocks import tone, write
from vatt.media.formats.headers import has_configuration
from vatt.media.tracks.selection import from_last_before


def test_the_last_configuration_comes_before_the_packets_of_a_segment(tmp_path: Path) -> None:
    write(tmp_path / "a.latm", None, "aac", tone(440, 1.0, 48_000), 48_000)
    with av.open(str(tmp_path / "a.latm")) as container:
        packets = list(container.demux(audio=0))
        base_s = float(packets[0].time_base)
        times_s = [packet.pts * base_s for packet in packets if packet.size]
        for number in range(len(times_s)):
            start_s = times_s[number] + 0.001
            first, *rest = from_last_before(iter(packets), start_s, lambda stamp: stamp * base_s)
            configurations = [i for i, packet in enumerate(packets[: number + 1]) if has_configuration(packet)]
            assert first is packets[configurations[-1]]
            assert rest == packets[number + (first is packets[number]) :]
