"""Convert the JSON files of MSR-VTT (Xu et al. 2016), the 1k-A test (Yu et al. 2018), or both.

With the list of 1k-A each of its videos is a test row with the one sentence of the list, and every other video of
the JSON files is trained on: the "9k" of MSRVTT_data.json, the "7k" of train_val_videodatainfo.json.

Usage:
    vatt manifest msrvtt MSRVTT_data.json videos --split_1ka msrvtt_1ka_test.csv \\
        --output runs/msrvtt/clips.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vatt.errors import InputError
from vatt.preparation.annotations.finding import Files
from vatt.preparation.annotations.reading import of_kind, pick, read_json, read_table, to_name, to_split
from vatt.preparation.annotations.writing import Notes, Wanted, make_parser, run, write
from vatt.structures import Clip, TimedText

Videos = dict[str, tuple[str, dict[str, Any], list[str]]]  # split, columns and sentences of each video


def read_info(path: Path, videos: Videos, notes: Notes) -> None:
    """{"videos": [{"video_id": …, "split": …}, …], "sentences": [{"video_id": …, "caption": …}, …]}.

    Raises:
        InputError: not of this form, or a video is in another split already.
    """
    listed, sentences = pick(read_json(path), str(path), "videos", "sentences")
    for number, video in enumerate(of_kind(listed, list, str(path))):
        place = f"{path}, video {number}"
        name, split = pick(video, place, "video_id", "split")
        name, split = to_name(name, place, "video_id"), to_split(to_name(split, place, "split"))
        if name in videos:
            notes.add("Videos listed again, whose sentences are put together", f"{place}, {name}")
        extra = {"x_category": video.get("category"), "x_url": video.get("url")}
        if (known := videos.setdefault(name, (split, extra, []))[0]) != split:
            raise InputError(f"{place}: {name} is in split {known!r} already, not {split!r}")
    earlier = {name: set(sentences) for name, (_, _, sentences) in videos.items()}
    for number, sentence in enumerate(of_kind(sentences, list, str(path))):
        place = f"{path}, sentence {number}"
        name, caption = pick(sentence, place, "video_id", "caption")
        name, caption = to_name(name, place, "video_id"), of_kind(caption, str, place).strip()
        if name not in videos or not caption:
            notes.add("Sentences left out, empty or of a video that is not listed", f"{name} {caption!r}")
        elif caption in earlier[name]:
            notes.add("Sentences left out that an earlier file has", f"{name} {caption!r}")
        else:
            videos[name][2].append(caption)


def read(infos: Sequence[Path], list_1ka: Path | None, notes: Notes) -> Iterator[Wanted]:
    """The rows of the JSON files, then those of the list "key,vid_key,video_id,sentence"."""
    videos: Videos = {}
    for path in infos:
        read_info(path, videos, notes)
    test = {}
    for place, row in read_table(list_1ka, ("video_id", "sentence")) if list_1ka else ():
        if to_name(row["video_id"], place, "video_id") in test or not row["sentence"]:
            raise InputError(f"{place}: {row['video_id']} has no sentence, or comes a second time")
        test[row["video_id"]] = row["sentence"]
    for name, (split, extra, sentences) in videos.items():
        if name in test:
            continue
        if not sentences:
            notes.add("Videos without a sentence", name)
        texts = tuple(map(TimedText, sentences))
        split = "train" if list_1ka else split
        extra = extra | ({"x_list": "msrvtt-full"} if split == "test" else {})
        yield Wanted(Clip(id=name, path="", texts=texts, split=split, extra=extra), names=[name])
    for name, sentence in test.items():
        extra = (videos[name][1] if name in videos else {}) | {"x_list": "msrvtt-1ka"}
        clip = Clip(id=name, path="", texts=(TimedText(sentence),), split="test", extra=extra)
        yield Wanted(clip, names=[name])


def main() -> None:
    parser = make_parser(__doc__, "MSRVTT_data.json, train_val_videodatainfo.json, …, or the CSV of 1k-A alone")
    parser.add_argument("--split_1ka", type=Path, metavar="CSV", help="the list of 1k-A: test on it, train on the rest")
    given = parser.parse_args()
    infos = [path for path in given.annotations if path.suffix.lower() != ".csv"]
    lists = [path for path in given.annotations if path not in infos] + [p for p in [given.split_1ka] if p]
    if len(lists) > 1:
        raise InputError(f"one list of 1k-A is wanted, not {', '.join(map(str, lists))}")
    notes = Notes()
    write(read(infos, lists[0] if lists else None, notes), Files(given.media), given.output, notes)


if __name__ == "__main__":
    run(main)
