"""What large batches cost: similarities in parts beside all at once, and micro-batches beside the whole batch.

Usage:
    python benchmarks/large_batches.py

Both ways compute the same loss and the same gradients (`tests/objectives`). Time is the median of rounds in which they
take turns; memory is the most that tensors take at once, beyond weights and clips.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import medians, peak_bytes
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.contrastive import Contrastive
from vatt.objectives.losses import MAX_LOGITS, mil_nce, nce
from vatt.structures import Batch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 5
LOSSES = ((8192, 1, 512), (2048, 5, 256))  # B clips, K texts, E
CLIPS, MICRO_BATCHES = 64, (32, 16, 8, 4)
WIDTH, DEPTH, HEADS = 256, 6, 8


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Print time and memory of each way, and their ratios to the first one's."""
    seconds, memory = medians(ways, rounds), {name: peak_bytes(do) for name, do in ways.items()}
    first = next(iter(ways))
    print(f"\n{title}\n\n| | seconds | x | MB | share |\n|---|---|---|---|---|")
    for name in ways:
        times, share = seconds[name] / seconds[first], memory[name] / memory[first]
        print(f"| {name} | {seconds[name]:.2f} | {times:.2f} | {memory[name] / 1e6:.0f} | {share:.0%} |")


def loss_of(b: int, k: int, e: int, max_logits: int | None) -> Callable[[], None]:
    """A loss with its gradients."""
    draw = torch.Generator(DEVICE).manual_seed(0)
    x = torch.randn(b, e, generator=draw, device=DEVICE, requires_grad=True)
    y = torch.randn(b, k, e, generator=draw, device=DEVICE, requires_grad=True)

    def do() -> None:
        x.grad = y.grad = None
        loss = nce(x, y[:, 0], max_logits=max_logits) if k == 1 else mil_nce(x, y, max_logits=max_logits)
        loss.backward()

    return do


def step_of(micro_batch: int | None) -> Callable[[], None]:
    """A step of pretraining with DropToken 0.5, of small transformers on clips of 32 frames of 64 x 64."""
    torch.manual_seed(0)
    tokenizers = {
        "video": VideoTokenizer(WIDTH, (8, 4, 4)),
        "audio": AudioTokenizer(WIDTH, length=200),
        "text": TextTokenizer(WIDTH, vocabulary_size=500, length=16),
    }
    backbone = Backbone(tokenizers, {name: Transformer(WIDTH, DEPTH, HEADS) for name in tokenizers})
    head = functools.partial(HierarchicalProjection, video_audio=256, video_text=128)
    objective = Contrastive(head, micro_batch=micro_batch)
    objective.build(backbone)
    backbone.to(DEVICE), objective.to(DEVICE)
    batch: Batch = {
        "id": [str(i) for i in range(CLIPS)],
        "video": torch.rand(CLIPS, 32, 3, 64, 64, device=DEVICE) * 2 - 1,
        "audio": torch.rand(CLIPS, 200 * 128, device=DEVICE) * 2 - 1,
        "text": torch.randint(1, 500, (CLIPS, 5, 16), device=DEVICE),
        "video_valid": torch.ones(CLIPS, dtype=torch.bool, device=DEVICE),
        "audio_valid": torch.ones(CLIPS, dtype=torch.bool, device=DEVICE),
        "text_valid": torch.ones(CLIPS, 5, dtype=torch.bool, device=DEVICE),
    }

    def do() -> None:
        backbone.zero_grad()
        objective.zero_grad()
        objective(backbone, batch)["loss"].backward()

    return do


def main() -> None:
    print(
        f"torch {torch.__version__}, {DEVICE}, {torch.get_num_threads()} threads, float32, medians of {ROUNDS} rounds"
    )
    for b, k, e in LOSSES:
        ways = {"all similarities at once": loss_of(b, k, e, None), "in parts": loss_of(b, k, e, MAX_LOGITS)}
        compare(f"Loss and gradients of {b:,} clips with {k} candidates each, {e} dimensions", ways, ROUNDS)
    steps: dict[str, Callable[[], object]] = {"the whole batch": step_of(None)}
    steps |= {f"micro-batches of {size}": step_of(size) for size in MICRO_BATCHES}
    compare(f"A step of {CLIPS} clips, width {WIDTH}, depth {DEPTH}, DropToken 0.5", steps, ROUNDS)


if __name__ == "__main__":
    main()
