"""What becomes of one source of a shard: the files of its members, made in a worker process."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from vatt.datasets.folders import MEDIA_SUFFIXES, PICTURE_SUFFIXES
from vatt.media.decoding import open_media
from vatt.media.inspection import read_packets
from vatt.media.reader import Media
from vatt.media.segments import Stretch
from vatt.media.sources.files import open_source, split_member
from vatt.media.transcode import Encoding, check_whole, transcode
from vatt.media.types import MediaError
from vatt.preparation.shards.plan import Source, member_key, pieces


@dataclass
class Member:
    """A sample of a shard.

    Args:
        key: its name.
        rows: numbers of the rows that point to it.
        start_s: where its second 0 is in the file it came from.
        duration_s: seconds of it; 0 for a picture.
        path: name of its file in the work folder, and the suffix it gets in the shard.
        audio_path: the same for a sound that has a file of its own.
    """

    key: str
    rows: list[int]
    start_s: float
    duration_s: float
    path: tuple[str, str] = ("", "")
    audio_path: tuple[str, str] | None = None

    @property
    def files(self) -> list[tuple[str, str]]:
        """Names in the work folder and suffixes in the shard."""
        return [self.path] if self.audio_path is None else [self.path, self.audio_path]


@dataclass
class SourceResult:
    """What came of a source.

    Args:
        members: in the order of their first rows.
        left_out: number, kind of failure and reason of each row that is in none.
        incomplete: (row, reason) of each row whose member lacks its audio or video.
    """

    members: list[Member] = field(default_factory=list)
    left_out: list[tuple[int, str, str]] = field(default_factory=list)
    incomplete: list[tuple[int, str]] = field(default_factory=list)


def make_members(source: Source, encoding: Encoding, folder: str) -> SourceResult:
    """Write the files of a source's members into a folder.

    Videos are transcoded; pictures, and sounds that are not cut, are copied byte by byte after they were decoded once.
    A piece that is damaged, or a whole file that was cut off, is left out.

    Args:
        source: what is read.
        encoding: how it is written.
        folder: the work folder.

    Raises:
        MediaError: the source cannot be read.
        OSError: the disk is full.
    """
    result, first = SourceResult(), source.clips[0]
    with ExitStack() as stack:
        media = stack.enter_context(open_media(first.path))
        apart = first.audio_path not in (None, first.path)
        sound = stack.enter_context(open_media(first.audio_path)) if apart else None
        is_picture = media.info.is_picture and sound is None  # shown at all times
        duration_s = 0.0 if is_picture else max(file.info.duration_s for file in (media, sound) if file)
        usable = []
        for row, clip in zip(source.rows, source.clips, strict=True):
            if clip.start_s and clip.start_s >= duration_s and not is_picture:
                result.left_out.append(
                    (row, "outside", f"begins at {clip.start_s:g} s, the file ends at {duration_s:g} s")
                )
            else:
                usable.append((row, clip))
        if first.audio_path and not (sound or media).info.has_audio:
            raise MediaError(first.audio_path, "no audio track")
    if not usable:
        return result
    for start_s, end_s, rows in pieces(*zip(*usable, strict=True), duration_s):
        member = Member(member_key(rows[0]), rows, start_s, min(end_s, duration_s) - start_s)
        stretch = Stretch(start_s, end_s, sound=sound is None or not media.info.has_video)
        try:
            member.path = _write(media, stretch, encoding, folder, member.key)
            if sound is not None:
                stretch = Stretch(start_s, end_s, picture=False)
                member.audio_path = _write(sound, stretch, encoding, folder, f"{member.key}.audio")
        except MediaError as error:  # other pieces of the file may be whole
            result.left_out += [(row, "unreadable", error.reason) for row in rows]
            remove(folder, member.key)
        else:
            result.members.append(member)
            if sound is None and media.info.undecodable:
                result.incomplete += [(row, media.info.undecodable) for row in rows]
    return result


def remove(folder: str, key: str) -> None:
    """Remove what was begun of a member."""
    for begun in Path(folder).glob(f"{key}.*"):
        begun.unlink()


def _write(media: Media, stretch: Stretch, encoding: Encoding, folder: str, name: str) -> tuple[str, str]:
    """Write one file; returns its name, and the suffix it gets in the shard."""
    video = media.info.has_video and not media.info.is_picture
    if not stretch.is_cut and (cut_off := read_packets(media.path).cut):  # nobody could tell from the new file
        raise MediaError(media.path, cut_off)
    if not video and (media.info.is_picture or not stretch.is_cut):
        name += _suffix(media.path, check_whole(media.path))
        _copy(media.path, _target(folder, name))
    else:
        name += ".mp4" if video and stretch.picture else ".m4a"
        transcode(media.path, _target(folder, name), encoding, stretch)
    return _target(folder, name).name, name.partition(".")[2]


def _target(folder: str, name: str) -> Path:
    # Nobody is to take it for media, should the work folder lie inside a folder that is searched for some.
    return Path(folder) / f"{name}.member"


def _suffix(path: str, format_name: str) -> str:
    """Of a file that is copied; where its name has none, such as for a clip in a shard, after its format."""
    suffix = Path(split_member(path)[0]).suffix.lower()
    if suffix in MEDIA_SUFFIXES | PICTURE_SUFFIXES:
        return suffix
    return "." + format_name.split(",")[0].removesuffix("_pipe")


def _copy(path: str, target: Path) -> None:
    file, offset, size = split_member(path)
    with open_source(file, "rb") as old, target.open("wb") as new:
        old.seek(offset)
        if size is None:
            shutil.copyfileobj(old, new)
        else:
            new.write(old.read(size))
