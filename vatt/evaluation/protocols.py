"""Retrieval protocols on stored embeddings: which vectors are compared, and how."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vatt.errors import InputError
from vatt.evaluation.metrics import retrieval
from vatt.retrieval.saved_embeddings import Embeddings, Rows
from vatt.retrieval.tables import StoreError

TEXT = ("text",)
VIDEO, CAPTION = ("video", "video_text"), ("text", "video_text")
SPACE_OF = {"text": "video_text", "audio": "video_audio"}  # where each meets video


@dataclass(frozen=True)
class Protocol:
    """What of a benchmark is compared.

    Rows of one file and segment are one clip, whatever their ids are. See `vatt.evaluation.metrics` for clips with
    several captions. The vectors of a clip's windows are averaged, not normalized, and compared by cosine
    (VATT, appendix A.3.3; the released code's ``txt2vid_embd``); of equal similarities the right one comes last; R@k is
    in per cent.

    Args:
        name: on the command line.
        about: a line for the report.
        pairs: what is compared: each with video.
        split: the rows of the manifest that are the benchmark; None takes all that were embedded.
        clips: how many these are; None is any number.
        windows: of each clip, spread from its beginning to its end; None is any number.
        captions: of each clip; None is any number.
        all_captions: every caption is a query, and the best one of a clip counts when it is looked for; otherwise a
            clip has its first one.
    """

    name: str
    about: str
    pairs: tuple[str, ...] = ("text",)
    split: str | None = None
    clips: int | None = None
    windows: int | None = None
    captions: int | None = None
    all_captions: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("manifest", "the clips of a manifest, all captions", ("text", "audio"), all_captions=True),
        Protocol("first-caption", "the clips of a manifest, the first caption of each", ("text", "audio")),
        Protocol(
            "youcook2",
            "YouCook2, the 3350 sentences of MIL-NCE's validation list, two of one segment",
            TEXT,
            "val",
            3349,
            4,
            all_captions=True,
        ),
        Protocol("msrvtt-1ka", "MSR-VTT 1k-A (Yu et al. 2018), a sentence a video", TEXT, "test", 1000, 4, 1),
        Protocol("msrvtt-full", "MSR-VTT, all sentences of the test videos", TEXT, "test", 2990, 4, 20, True),
    )
}


def evaluate(source: str | Path, protocol: str = "manifest") -> dict[str, Any]:
    """Retrieval in both directions among embedded clips.

    A direction is left out where the embeddings do not have its modalities. Clips that have only one of the two sides
    are in neither the queries nor the gallery; ``missing`` says how many.

    Args:
        source: folder of the embeddings.
        protocol: one of `PROTOCOLS`.

    Returns:
        ``text_to_video``, ``video_to_text``, ``audio_to_video``, ``video_to_audio`` as in
        `vatt.evaluation.metrics.summarize`, each with ``missing`` and, for texts, ``same_text`` (captions that another
        clip has too); the ``protocol``, ``clips_present`` of ``clips_expected``, and the ``model``.

    Raises:
        InputError: an unknown protocol, or embeddings that were not made as it asks.
        StoreError: nothing can be compared.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)}")
    spec, store = PROTOCOLS[protocol], Embeddings(source)
    notes = store.notes
    short = _check(spec, notes, store)
    kinds = store.kinds()
    report: dict[str, Any] = {}
    present: set[str] = set()
    for modality in spec.pairs:
        space = SPACE_OF[modality]
        if (modality, space) not in kinds or ("video", space) not in kinds:
            continue
        found, names = _compare(store, modality, space, spec.all_captions)
        report |= found
        present |= names
    if not report:
        raise StoreError(f"{store.file}: no two modalities of the same clips in one space, so nothing to compare")
    expected = spec.clips or (notes["clips"] - store.num_repeated if "clips" in notes else len(present))
    return {
        "protocol": protocol,
        "about": spec.about,
        "similarity": "cosine of the mean of a clip's windows; of equal ones the right one comes last",
        "windows": _windows(notes),
        **short,
        "clips_present": len(present),
        "clips_expected": expected,
        "model": store.model,
        **report,
    }


def _check(spec: Protocol, notes: dict[str, Any], store: Embeddings) -> dict[str, int]:
    """See that the embeddings were made as a benchmark's protocol asks, and count the clips that have less of it."""
    if spec.windows is None:
        return {}
    made = notes.get("windows_per_clip"), notes.get("split")
    if made != (spec.windows, spec.split):
        raise InputError(
            f"{spec.name} needs embeddings of split {spec.split!r} with {spec.windows} windows per clip. "
            f"{store.file} was made {_options(notes)}. Run vatt embed with --split {spec.split} --windows "
            f"{spec.windows}"
        )
    if notes.get("lists") != [spec.name]:
        raise InputError(
            f"{spec.name} is a list of clips, and those of {store.file} are of {notes.get('lists') or 'no list'} "
            "(column x_list): make the manifest by vatt manifest youcook2 of MIL-NCE's youcook2_val.csv, or by "
            "vatt manifest msrvtt, with --split_1ka for 1k-A; for clips of yours there is --protocol manifest"
        )
    windows, captions = (Counter(store.clips(store.select(*kind))) for kind in (VIDEO, CAPTION))
    if spec.clips is not None and len(windows) > spec.clips:
        raise InputError(f"{spec.name} has {spec.clips} clips, and {store.file} {len(windows)}: another split?")
    if spec.captions is not None and captions and max(captions.values()) > spec.captions:
        name, count = captions.most_common(1)[0]
        raise InputError(f"{spec.name} has {spec.captions} captions a clip, and {name} in {store.file} {count}")
    return {
        "clips_with_fewer_windows": sum(count < spec.windows for count in windows.values()),
        "clips_with_fewer_captions": sum(count < (spec.captions or 0) for count in captions.values()),
    }


def _options(notes: dict[str, Any]) -> str:
    """Return the options of ``vatt embed`` that embeddings were made with."""
    split = f"with --split {notes['split']}" if notes.get("split") else "without --split"
    if notes.get("windows_per_clip"):
        return f"{split} and --windows {notes['windows_per_clip']}"
    hop = f", one window every {notes['hop_s']:g} s" if notes.get("hop_s") else ""
    return f"{split} and without --windows{hop}"


def _windows(notes: dict[str, Any]) -> str:
    if notes.get("windows_per_clip"):
        return f"{notes['windows_per_clip']} a clip"
    return f"one every {notes['hop_s']:g} s" if "hop_s" in notes else "not known"


def _compare(
    store: Embeddings, modality: str, space: str, all_captions: bool
) -> tuple[dict[str, dict[str, float]], set[str]]:
    """Both directions between a modality and video, and the clips that were compared."""
    windows, rows = store.select("video", space), store.select(modality, space)
    names = store.clips(rows)
    video = means(windows, store.clips(windows))
    notes: dict[str, Any] = {}
    if modality == "text":
        vectors = torch.tensor(rows.vectors)
        first = {name: i for i, name in reversed([*enumerate(names)])}
        chosen = range(len(names)) if all_captions else sorted(first.values())
        queries = [(names[i], vectors[i]) for i in chosen if names[i] in video]
        texts = rows.column("text")
        names_of_text: dict[str, set[str]] = {}
        for i in chosen:
            if names[i] in video:
                names_of_text.setdefault(texts[i], set()).add(names[i])
        notes["same_text"] = sum(len(clips) for clips in names_of_text.values() if len(clips) > 1)
    else:
        queries = [(name, x) for name, x in means(rows, names).items() if name in video]
    shared = list(dict.fromkeys(name for name, _ in queries))
    if not shared:
        return {}, set()
    notes["missing"] = len(set(names) | set(video)) - len(shared)
    place = {name: i for i, name in enumerate(shared)}
    x, owner = torch.stack([vector for _, vector in queries]), torch.tensor([place[name] for name, _ in queries])
    gallery = torch.stack([video[name] for name in shared])
    return {
        f"{modality}_to_video": retrieval(x, gallery, owner, torch.arange(len(shared))) | notes,
        f"video_to_{modality}": retrieval(gallery, x, torch.arange(len(shared)), owner) | notes,
    }, set(shared)


def means(rows: Rows, clips: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean vector of each clip, in the order of the rows.

    Args:
        rows: Rows of windows.
        clips: Clip of each row.
    """
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(clips):
        groups.setdefault(name, []).append(place)
    return {name: torch.from_numpy(np.mean(rows.vectors[places], axis=0)) for name, places in groups.items()}
