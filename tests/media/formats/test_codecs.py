from __future__ import annotations

from vatt.media.formats.codecs import lacking, libraries


def test_codecs_that_there_are_and_are_not() -> None:
    assert lacking(["h264", "no_such_codec", "aac"], "r") == ["no_such_codec"]
    assert lacking(["libx264", "mp3float"], "w") == ["mp3float"]  # decodes only
    assert libraries()["libavcodec"].count(".") == 2
