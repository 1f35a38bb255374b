"""Operations of the towers beside the GFLOPs of the paper's DropToken tables.

"all" is what PyTorch's counter finds: every matrix product, attention included. "as there" is the same without queries
times keys and with seven operations for each score (five of the softmax, the scaling, the padding mask): what
TensorFlow's profiler counts. It knows no operations for Einsum, by which the released code multiplies queries and keys.
Norms and activations are in neither.

Usage:
    python benchmarks/flops.py
"""

from __future__ import annotations

from pathlib import Path

import torch
import yaml

from vatt.models.backbone import Backbone
from vatt.models.flops import count_flops
from vatt.models.part import from_config
from vatt.structures import ClipFormat

PARTS = Path(__file__).parents[1] / "configs" / "backbone"
# The paper's appendix: fine-tuning on Kinetics-400 (ViT Medium) and pretraining (MBS), by dropped share.
VIDEO = [
    ("32 x 224²", ClipFormat(), 0.0, 548.1),
    ("64 x 224²", ClipFormat(num_frames=64), 0.0, 1222.1),
    ("32 x 320²", ClipFormat(size=320), 0.0, 1252.3),
    ("32 x 320², 25 % dropped", ClipFormat(size=320), 0.25, 898.9),
    ("32 x 320², 50 % dropped", ClipFormat(size=320), 0.5, 572.5),
    ("32 x 320², 75 % dropped", ClipFormat(size=320), 0.75, 279.8),
]
PER_SCORE = 7
HEAD_WIDTH = 64
MULTIMODAL = [(0.0, 784.8), (0.25, 574.2), (0.5, 375.4), (0.75, 188.1)]


def main() -> None:
    """Print both tables."""
    backbone = from_file(PARTS / "mbs.yaml")
    with torch.device("meta"):
        tower = Backbone({"video": backbone.tokenizers["video"]}, backbone.encoder("video"))
    print(f"{'ViT Medium, forward, GFLOPs':42} {'all':>8} {'as there':>9} {'paper':>8} {'ratio':>7}")
    for name, format, drop, paper in VIDEO:
        (found,) = count_flops(tower, format, {"video": drop})
        line(name, found.all, found.scores, paper)
    print(f"\n{'MBS, forward, one clip with 5 texts, GFLOPs':42} {'all':>8} {'as there':>9} {'paper':>8} {'ratio':>7}")
    for drop, paper in MULTIMODAL:
        towers = count_flops(backbone, ClipFormat(), {"video": drop, "audio": drop})
        times = {"video": 1, "audio": 1, "text": ClipFormat().num_texts}
        every = sum(times[t.modality] * t.all for t in towers)
        line(f"{drop:.0%} dropped", every, sum(times[t.modality] * t.scores for t in towers), paper)


def line(name: str, every: int, scores: int, paper: float) -> None:
    """One row; the ratio is of "as there" to the paper."""
    counted = (every - scores + PER_SCORE * scores / (2 * HEAD_WIDTH)) / 1e9
    print(f"{name:42} {every / 1e9:8.1f} {counted:9.1f} {paper:8.1f} {counted / paper:7.3f}")


def from_file(path: Path) -> Backbone:
    """A backbone of a configuration, without memory for its weights."""

    def filled(node: object, folder: Path) -> object:
        if isinstance(node, dict):
            return {key: filled(value, folder) for key, value in node.items()}
        if isinstance(node, str) and node.endswith(".yaml"):
            return filled(yaml.safe_load((folder / node).read_text()), (folder / node).parent)
        return node

    with torch.device("meta"):
        return from_config(filled(yaml.safe_load(path.read_text()), path.parent))


if __name__ == "__main__":
    main()
