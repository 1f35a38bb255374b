"""V-JEPA's objective: predict the features of hidden places (Bardes et al. 2024, "Revisiting Feature Prediction")."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vatt.models.backbone import Backbone
from vatt.models.blocks import LONG_RANGE, SHORT_RANGE, BlockMask, Truncate, draw_blocks
from vatt.models.heads import NoProjection
from vatt.models.predictor import Predictor
from vatt.models.selection import to_device
from vatt.objectives.base import Losses, Objective
from vatt.objectives.distributed import local_slice, world_size
from vatt.objectives.health import of_vectors
from vatt.structures import Batch

INIT_STD = 0.02
DRAWS = 500  # over which the sizes of masks are averaged, for counting


class JEPA(Objective):
    """L = mean over masks of |P(E(seen), hidden) - LN(E'(all))[hidden]|, E' a moving average of the encoder E.

    The context encoder sees the tokens that a mask leaves, the target encoder all of them; the predictor is told which
    places are asked for. Targets pass a layer norm without weights and have no gradient. The target encoder is what is
    saved: the released code evaluates it, and calls it target_encoder.

    Args:
        masks: one or more; each has its own mask token, and a pass through encoder and predictor.
        truncate: see `vatt.models.blocks.draw_blocks`. As in the released code all clips of a process see as many
            places as the one with the fewest: more clips in each process mean shorter contexts.
        inner, depth, heads: of the `Predictor`.
        rotary: the predictor's positions turn queries and keys, as V-JEPA 2 has them, in place of sines and cosines
            that are added; goes with a tower of `Transformer(rotary="space")` and ``positions: none``.
        init_by_depth: of the predictor, see `vatt.models.transformer.Transformer`; V-JEPA 2 has it.
        momentum: of the moving average in the beginning, and what it would be in the end of the schedule, which grows
            linearly.
        schedule_length: the length of that schedule, in trainings: the released code's is 1.25, whose end is never
            reached.
    """

    def __init__(
        self,
        masks: Sequence[BlockMask] = (SHORT_RANGE, LONG_RANGE),
        truncate: Truncate = "first",
        inner: int = 384,
        depth: int = 12,
        heads: int = 16,
        rotary: bool = False,
        init_by_depth: bool = False,
        momentum: tuple[float, float] = (0.998, 1.0),
        schedule_length: float = 1.25,
    ) -> None:
        super().__init__()
        if not masks:
            raise ValueError("feature prediction needs a mask")
        if not 0 <= momentum[0] <= momentum[1] <= 1 or not 1 <= schedule_length < math.inf:
            raise ValueError(f"momentum grows within [0, 1] over 1 or more trainings: {momentum}, {schedule_length}")
        self.masks, self.truncate = tuple(masks), truncate
        places = {"positions": "none", "rotary": "space"} if rotary else {"positions": "fixed"}
        self.sizes = {"inner": inner, "depth": depth, "heads": heads, "init_std": INIT_STD, **places}
        self.sizes["init_by_depth"] = init_by_depth
        self.momentum, self.schedule_length = momentum, schedule_length

    def build(self, backbone: Backbone) -> None:
        if "video" not in backbone.modalities or backbone.encoder("video").agg:
            raise ValueError("feature prediction takes a video tower without an AGG token: Transformer(agg=False)")
        how = {"masks": len(self.masks), "grid": backbone.tokenizers["video"].grid, **self.sizes}
        self.predictor = Predictor(backbone.encoder("video").out_width, **how)
        self.target = copy.deepcopy(backbone.tower("video")).requires_grad_(False)

    def head(self) -> NoProjection:
        return NoProjection()

    def exported(self, backbone: Backbone) -> Backbone:
        return self.target

    def momentum_at(self, progress: float) -> float:
        """Of the moving average, when so much of the training is done."""
        first, last = self.momentum
        return first + (last - first) * progress / self.schedule_length

    @torch.no_grad()
    def after_step(self, backbone: Backbone) -> None:
        """Move the target encoder."""
        share = 1.0 - self.momentum_at(self.progress)
        towers = zip(self.target.parameters(), backbone.tower("video").parameters(), strict=True)
        for kept, new in towers:
            kept.lerp_(new.detach(), share)

    def forward(self, backbone: Backbone, batch: Batch) -> Losses:
        """Return ``loss``, the loss of each mask (``mask_0``, …), and the number of encoded ``tokens``."""
        video, valid = batch["video"], batch["video_valid"]
        tokens = backbone.tokenize("video", video)
        target = self.targets(video)
        errors, visible = [], 0
        for number, mask in enumerate(self.masks):
            keep, masked = self.draw(len(video), tokens.grid, mask, video.device)
            context = tokens.take(keep)
            features = backbone.encode("video", context).tokens
            positions = tokens.position.gather(1, masked.unsqueeze(-1).expand(-1, -1, 3))
            pred = self.predictor(features, context.position, positions, number)
            masked_target = target.gather(1, masked.unsqueeze(-1).expand(-1, -1, target.shape[-1]))
            per_clip = (pred.float() - masked_target).abs().mean(dim=(1, 2))
            # A clip without frames has weight 0 but stays in the graph.
            errors.append((per_clip * valid).sum() / valid.sum().clamp(min=1))
            visible += keep.numel()
        loss = torch.stack(errors).mean()
        if self.watched:
            # Mean targets of the clips become equal if the encoder collapses, even if the loss is low.
            self.health = of_vectors("target", target.mean(dim=1), valid)
        named = {f"mask_{number}": error for number, error in enumerate(errors)}
        return {"loss": loss, **named, "tokens": visible + target.shape[0] * target.shape[1]}

    @torch.no_grad()
    def targets(self, video: Tensor) -> Tensor:
        """(B, N, D) float32: what is to be predicted at every place."""
        features = self.target("video", video).tokens.float()
        return F.layer_norm(features, features.shape[-1:])

    def draw(self, clips: int, grid: tuple[int, ...], mask: BlockMask, device: torch.device) -> tuple[Tensor, Tensor]:
        """Draw blocks for the clips of all processes; return visible and masked positions of the local clips."""
        kwargs = {"truncate": self.truncate, "generator": self.draws, "part": local_slice}
        keep, masked = draw_blocks(clips * world_size(), grid, mask, **kwargs)  # on the CPU: sizes depend on the draw
        return to_device(keep, device), to_device(masked, device)

    def use_expected_mask_sizes(self, backbone: Backbone, clips: int) -> None:
        grid, generator, even = backbone.tokenizers["video"].grid, torch.Generator().manual_seed(0), {}
        for mask in self.masks:
            how = {"truncate": self.truncate, "generator": generator}
            drawn = [draw_blocks(clips, grid, mask, **how) for _ in range(DRAWS)]
            even[mask] = [round(sum(each[side].shape[1] for each in drawn) / DRAWS) for side in (0, 1)]
        self.draw = lambda rows, _, mask, device: tuple(  # type: ignore[method-assign]
            torch.arange(count, device=device).expand(rows, -1) for count in even[mask]
        )

    @torch.no_grad()
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Nothing: there is no common space."""
        return {}
