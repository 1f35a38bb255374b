"""``vatt scenes`` and ``vatt readout``: scenes whose depth, camera, points and boxes are known, and who sees them."""

from __future__ import annotations

import copy
import time

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from vatt.cli.commands import print_table
from vatt.cli.ranges import Count, CountOrZero, Seed
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.clips import ClipDataset, Views
from vatt.datasets.loading.batches import collate, finish
from vatt.datasets.manifest import read_manifest
from vatt.errors import InputError
from vatt.evaluation.readouts import METRICS, TASKS, Inputs, train_and_measure, without_looking
from vatt.evaluation.report import config_hash, write_report
from vatt.evaluation.tracking import boundary_f, jaccard, propagate
from vatt.models.backbone import Backbone
from vatt.models.device import resolve_device
from vatt.models.part import from_config, to_config
from vatt.models.readouts import released_layer
from vatt.models.vatt import load_model
from vatt.preparation.scenes import FPS, FRAMES, SHAPES, SIZE, ScenePlan, read_truth, write_scenes
from vatt.structures import ClipFormat
from vatt.training.history import history_of

PROPAGATION = {"context": 20, "nearest": 7, "temperature": 0.1}
WITHOUT_EFFECT = ("output", "batch_size", "num_workers", "device")


def scenes(
    output: str,
    num_train: CountOrZero = 1_500,
    num_test: CountOrZero = 200,
    seed: Seed = 0,
    num_workers: Count | None = None,
) -> int:
    """Write scenes of flat shapes that move in space before a moving camera, and what is known of them.

    16 frames of 64 x 64 at 10 fps each; depth, camera, boxes, points and which shape is seen, in an .npz beside.

    Args:
        output: folder that gets clips/, truth/ and manifest.jsonl.
        num_train: scenes to train on.
        num_test: scenes to test on.
        seed: of everything.
        num_workers: processes; one per CPU unless given.
    """
    manifest = write_scenes(output, ScenePlan(num_train, num_test, seed), num_workers)
    print(f"scenes: {manifest}")
    return 0


def readout(
    manifest: str,
    model: str,
    output: str,
    tasks: list[str] = list(TASKS),  # noqa: B006 (jsonargparse takes the list as it stands)
    layer: str = "final",
    frozen: bool = True,
    untrained: bool = True,
    steps: Count = 1_500,
    batch_size: Count = 32,
    num_workers: CountOrZero = 2,
    seed: Seed = 0,
    device: str | None = None,
) -> int:
    """Train attention readouts of depth, camera, points and boxes on a video tower, and carry labels by its features.

    Beside them stand the same on a tower with random weights, and what can be said without looking: the mean depth, and
    that nothing moves.

    Args:
        manifest: of vatt scenes.
        model: folder of a model that takes 16 frames of 64 x 64 at 10 fps.
        output: JSON file that gets the numbers; a Markdown page is written beside it.
        tasks: depth, camera, points and boxes, or some of them.
        layer: final, the number of a block, or 4ds for the block that its released code reads.
        frozen: false trains the tower too, for each task anew.
        untrained: measure random weights too.
        steps: of the training of each readout.
        batch_size: scenes at a time, where tokens are made.
        num_workers: processes that read.
        seed: of readouts, and of random weights.
        device: cpu, cuda, …; a GPU is used if there is one.
    """
    began = time.perf_counter()
    asked = {name: value for name, value in locals().items() if name not in ("began", *WITHOUT_EFFECT)}
    wrong = [task for task in tasks if task not in TASKS]
    if wrong or not tasks or steps < 1:
        raise InputError(f"tasks are some of {', '.join(TASKS)}, in 1 step or more; not {', '.join(wrong) or steps}")
    net = load_model(model)
    _check(net.format, net.backbone, model)
    tower, target = net.backbone.tower("video"), str(resolve_device(device))
    block = _block(tower, layer)
    if block is not None and not frozen:
        raise InputError("a tower that is trained too is read at its end: leave --layer out")
    videos = {split: _videos(manifest, split, net.format, num_workers) for split in ("train", "test")}
    truths = {split: _truth(manifest, names) for split, (names, _) in videos.items()}
    towers = {"trained": tower}
    if untrained:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            towers["random weights"] = from_config(to_config(tower))
    found: dict[str, dict[str, float]] = {name: {} for name in (*towers, "without looking")}
    for name, which in towers.items():
        which.to(target).eval()
        tokens = {split: _tokens(which, x, block, batch_size, target) for split, (_, x) in videos.items()}
        found[name] |= _carried(which, tokens["test"], truths["test"]["shape"])
        for task in tasks:
            given = tokens if frozen else {split: x for split, (_, x) in videos.items()}
            train, test = (Inputs(given[split], truths[split]) for split in ("train", "test"))
            also = None if frozen else copy.deepcopy(which).requires_grad_(True)
            times = _grid(which)[0]
            found[name][METRICS[task]] = train_and_measure(task, train, test, times, also, steps, seed, target)
    parts = [Inputs(torch.zeros(0), truths[split]) for split in ("train", "test")]
    known = truths["test"]["shape"]
    found["without looking"] = _j_and_f(known[:, :1].expand_as(known), known) | {  # the first frame, pixel by pixel
        METRICS[task]: without_looking(task, *parts) for task in tasks
    }
    about = {
        "protocol": f"readouts: {steps} steps of 16 scenes, AdamW, layer {layer}, tower "
        f"{'frozen' if frozen else 'trained too'}; labels: nearest features of "
        f"{', '.join(f'{key} {value}' for key, value in PROPAGATION.items())}, any distance, on the grid of tokens, "
        "mean of all shapes and of frames but the first and the last; without looking: the first frame's, by pixels",
        "data": manifest,
        "scenes": f"{len(videos['train'][0])} to train, {len(videos['test'][0])} to test",
        "model": f"{model} ({net.model_hash()})",
        "pretraining": history_of(model) or "not known",
        "configuration": config_hash(asked),
        "seed": seed,
        "minutes": round((time.perf_counter() - began) / 60, 2),
    }
    columns = list(found["without looking"])
    rows = [(name, *(f"{of[column]:.3f}" if column in of else "–" for column in columns)) for name, of in found.items()]
    print_table(f"Scenes: {about['scenes']}", ("tower", *columns), rows)
    page = write_report(output, "Readouts of scenes", found, about)
    print(f"report: {output}    {page}")
    return 0


def _check(format: ClipFormat, backbone: Backbone, model: str) -> None:
    if "video" not in backbone.modalities:
        raise InputError(f"{model} has {', '.join(backbone.modalities)}, not video")
    wanted = (FRAMES, FPS, SIZE)
    if (format.num_frames, format.fps, format.size) != wanted:
        raise InputError(
            f"{model} takes {format.num_frames} frames of {format.size} x {format.size} at {format.fps:g} fps; scenes "
            f"have {FRAMES} of {SIZE} x {SIZE} at {FPS}"
        )


def _block(tower: Backbone, layer: str) -> int | None:
    """Which block's output is read, from 0; None is the final features."""
    depth = len(getattr(tower.encoder("video"), "blocks", ()))
    if layer == "final":
        return None
    if layer == "4ds":
        return released_layer(depth) - 1
    if not layer.isdigit() or not 1 <= int(layer) <= depth:
        raise InputError(f"layer is final, 4ds or a number from 1 to {depth}, not {layer!r}")
    return int(layer) - 1


def _videos(manifest: str, split: str, format: ClipFormat, workers: int) -> tuple[list[str], Tensor]:
    """Ids and (N, T, 3, H, W) of a split, all of it in memory.

    Raises:
        InputError: there are none, or one cannot be read.
    """
    clips = read_manifest(manifest, split=split)
    if not len(clips):
        raise InputError(f"{manifest} has no scenes of split {split}")
    dataset = ClipDataset(clips, ClipReader(format, modalities=("video",)), views=Views(1))
    names, parts = [], []
    for batch in tqdm(DataLoader(dataset, 32, num_workers=workers, collate_fn=collate), desc=split, disable=None):
        if batch["events"] or not batch["video_valid"].all():
            told = ", ".join(f"{event['path']}: {event['reason']}" for event in batch["events"])
            raise InputError(f"a scene cannot be read: {told}")
        names += batch["id"]
        parts.append(finish(batch)["video"])
    return names, torch.cat(parts)


def _truth(manifest: str, names: list[str]) -> dict[str, Tensor]:
    known = [read_truth(manifest, name) for name in names]
    return {key: torch.stack([torch.from_numpy(of[key]) for of in known]) for key in known[0]}


@torch.inference_mode()
def _tokens(tower: Backbone, videos: Tensor, block: int | None, batch_size: int, device: str) -> Tensor:
    """(N, L, D) float16."""
    parts = []
    for x in videos.split(batch_size):
        features = tower.encode("video", tower.tokenize("video", x.to(device)), layers=block is not None)
        tokens = features.tokens if block is None else features.layers[block][:, -features.tokens.shape[1] :]
        parts.append(tokens.half().cpu())
    return torch.cat(parts)


def _grid(tower: Backbone) -> tuple[int, int, int]:
    return tower.tokenizers["video"].grid


def _carried(tower: Backbone, tokens: Tensor, shape: Tensor) -> dict[str, float]:
    """J, F and their mean of shapes whose labels are carried by features from the first frame on."""
    times, h, w = _grid(tower)
    first = _first(shape, (times, h, w))
    maps = [
        propagate(x.view(times, h, w, -1), labels, radius=max(h, w), **PROPAGATION)
        for x, labels in zip(tokens, first, strict=True)
    ]
    return _j_and_f(_as_large(torch.stack(maps), shape), shape)


def _first(shape: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """(N, h, w, 1 + K): shares of the wall and of the shapes in each place of the first frame."""
    labels = F.one_hot(shape[:, 0].long(), 1 + SHAPES).float().permute(0, 3, 1, 2)
    return F.adaptive_avg_pool2d(labels, grid[1:]).permute(0, 2, 3, 1)


def _as_large(maps: Tensor, shape: Tensor) -> Tensor:
    """(N, T', h, w, 1 + K) shares to labels as large as those of the frames, (N, T, H, W)."""
    n, times, h, w, _ = maps.shape
    frames, *size = shape.shape[1:]
    large = F.interpolate(maps.reshape(n * times, h, w, -1).permute(0, 3, 1, 2), size, mode="bilinear")
    return large.argmax(dim=1).view(n, times, *size).repeat_interleave(frames // times, dim=1)


def _j_and_f(said: Tensor, shape: Tensor) -> dict[str, float]:
    """Of labels (N, T, H, W), of the shapes that the first frame has; first and last frame do not count."""
    js, fs = [], []
    for number in range(1, 1 + SHAPES):
        there = (shape[:, 0] == number).any(dim=(1, 2))  # in the first frame
        pair = said[there][:, 1:-1] == number, shape[there][:, 1:-1] == number
        js.append(jaccard(*pair).flatten())
        fs.append(boundary_f(*pair).flatten())
    j, f = float(torch.cat(js).mean()), float(torch.cat(fs).mean())
    return {"J": j, "F": f, "J&F": (j + f) / 2}
