"""``vatt codes``: pictures as discrete codes, learned from one's own videos."""

from __future__ import annotations

import torch

from vatt.cli.ranges import Count, CountOrZero, Seed
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, Views
from vatt.datasets.loading.batches import collate, finish
from vatt.datasets.loading.crashes import SequentialLoader
from vatt.datasets.loading.workers import leave_interrupts_to_main
from vatt.datasets.manifest import of_split, read_manifest
from vatt.errors import InputError
from vatt.models.codebooks import PatchCodes
from vatt.structures import NOT_READ, ClipFormat


def codes(
    manifest: str,
    output: str,
    codes: Count = 512,
    stride: Count = 8,
    size: Count = 128,
    clips: Count = 1_000,
    frames: Count = 4,
    split: str | None = "train",
    rounds: Count = 20,
    num_workers: CountOrZero = 2,
    seed: Seed = 0,
) -> int:
    """Learn which patches pictures are best made of, by k-means, for autoregression without a pretrained codebook.

    Exit status: 1 if some clips could not be read (they are named), 0 otherwise.

    Args:
        manifest: videos.
        output: safetensors file, which a configuration names as ``pretrained`` of ``vatt.models.codebooks.PatchCodes``.
        codes: how many.
        stride: pixels along each side of a patch.
        size: of the pictures, in pixels.
        clips: of the manifest, spread over it.
        frames: of each clip, spread over it.
        split: Split of the manifest. All clips are used if it is null or the manifest has no splits.
        rounds: of k-means.
        num_workers: processes that read.
        seed: of where k-means begins.
    """
    if min(codes, stride, clips, frames, rounds) < 1 or size % stride:
        raise InputError(f"counts are at least 1, and patches of {stride} fill pictures of {size}")
    table = read_manifest(manifest)
    if split is not None and any(clip.split is not None for clip in table.heads()):
        table = of_split(table, split, manifest)
    used = min(clips, len(table))
    chosen = table.take(len(table) * i // used for i in range(used))
    reader = ClipReader(ClipFormat(num_frames=1, fps=1, size=size), modalities=("video",))
    dataset = ClipDataset(chosen, reader, views=Views(frames))
    pictures, bad = [], 0
    options = {"num_workers": num_workers, "collate_fn": collate}
    for batch in SequentialLoader(dataset, 8, {}, leave_interrupts_to_main, **options):
        for event in batch["events"]:
            print(f"{event['kind']}: {event['path']}: {event['reason']}")
            bad += event["kind"] in NOT_READ
        pictures.append(finish(batch)["video"][batch["video_valid"]].flatten(0, 1))
    shown = torch.cat(pictures)
    codebook = PatchCodes(codes, stride)
    codebook.fit(shown, rounds, torch.Generator().manual_seed(seed))
    kept = codebook.cut(shown)
    error = (codebook.centres[codebook(shown)] - kept).square().mean() / (kept - kept.mean()).square().mean()
    codebook.save(output)
    told = f"{codes} patches of {stride} x {stride}, from {len(shown)} pictures"
    print(f"codes: {output} ({told}, {100 * (1 - float(error)):.1f} % of their variance)")
    return 1 if bad else 0
