"""Masked autoencoding of video (Tong et al. 2022, "VideoMAE"; Carreira et al. 2024, "Scaling 4D Representations")."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vatt.models.backbone import Backbone
from vatt.models.heads import NoProjection
from vatt.models.positions import PositionKind
from vatt.models.predictor import Predictor
from vatt.models.selection import MaskKind, draw_masked
from vatt.objectives.base import Losses, Objective
from vatt.objectives.distributed import local_slice, world_size
from vatt.objectives.health import of_vectors
from vatt.objectives.pixels import PixelTarget, check_target, pixel_targets
from vatt.structures import Batch, Tokens


class VideoMAE(Objective):
    """L = mean over hidden patches of (what the decoder says - the pixels)^2; the encoder sees the others only.

    Args:
        mask: see `vatt.models.selection.draw_masked`.
        hidden: share of the places that is hidden.
        target: see `vatt.objectives.pixels.pixel_targets`.
        inner, depth, heads: of a separate decoder; 384, 4 and 6 are VideoMAE's for a Base encoder.
        positions: of that decoder, see `vatt.models.positions.make_positions`.
        rotary: of that decoder: positions turn queries and keys too, as in `Transformer(rotary="space")`. Neighbours
            are found sooner, which short trainings need.
        trunk_blocks: in place of a separate decoder so many of the encoder's last blocks: mask tokens join the
            seen ones before them. 0 has a separate decoder.
    """

    def __init__(
        self,
        mask: MaskKind = "tube",
        hidden: float = 0.9,
        target: PixelTarget = "normalised",
        inner: int = 384,
        depth: int = 4,
        heads: int = 6,
        positions: PositionKind = "flat",
        rotary: bool = False,
        trunk_blocks: int = 0,
    ) -> None:
        super().__init__()
        check_target(target)
        if not 0 < hidden < 1:
            raise ValueError(f"hidden is a share of the places between 0 and 1, not {hidden}")
        self.mask, self.hidden, self.target, self.trunk_blocks = mask, hidden, target, trunk_blocks
        self.sizes = {"inner": inner, "depth": depth, "heads": heads, "positions": positions}
        self.sizes["rotary"] = "space" if rotary else None

    def build(self, backbone: Backbone) -> None:
        if "video" not in backbone.modalities or backbone.encoder("video").agg:
            raise ValueError("masked autoencoding takes a video tower without an AGG token: Transformer(agg=False)")
        tokenizer, encoder = backbone.tokenizers["video"], backbone.encoder("video")
        pixels = tokenizer.project.in_features
        if self.trunk_blocks == 0:
            how = {"masks": 1, "grid": tokenizer.grid, "bias": False, **self.sizes}
            self.decoder = Predictor(encoder.out_width, out_width=pixels, **how)
            return
        if not 0 < self.trunk_blocks < len(encoder.blocks):
            raise ValueError(f"trunk_blocks={self.trunk_blocks} of the {len(encoder.blocks)} blocks of the encoder")
        self.mask_token = nn.Parameter(torch.zeros(encoder.width))
        self.project = nn.Linear(encoder.out_width, pixels)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def head(self) -> NoProjection:
        return NoProjection()

    def forward(self, backbone: Backbone, batch: Batch) -> Losses:
        """Return ``loss`` and the number of encoded ``tokens``."""
        video, valid = batch["video"], batch["video_valid"]
        tokenizer = backbone.tokenizers["video"]
        patches = tokenizer.patchify(video)
        tokens = Tokens(tokenizer.embed(patches), patches.position, patches.valid, patches.grid)
        kwargs = {"device": video.device, "generator": self.draws, "part": local_slice}
        visible, masked = draw_masked(len(video) * world_size(), patches.grid, self.hidden, self.mask, **kwargs)
        pred = self.predict(backbone, tokens, visible, masked)
        target = pixel_targets(patches.x, self.target)
        target = target.gather(1, masked.unsqueeze(-1).expand(-1, -1, target.shape[-1]))
        per_clip = (pred.float() - target).square().mean(dim=(1, 2))
        # A clip without frames has weight 0 but stays in the graph.
        loss = (per_clip * valid).sum() / valid.sum().clamp(min=1)
        return {"loss": loss, "tokens": visible.numel()}

    def predict(self, backbone: Backbone, tokens: Tokens, seen: Tensor, hidden: Tensor) -> Tensor:
        """(B, M, P) what stands at the ``hidden`` (B, M) places, of the ``seen`` (B, N) ones."""
        context = tokens.take(seen)
        places = tokens.position.gather(1, hidden.unsqueeze(-1).expand(-1, -1, 3))
        if self.trunk_blocks == 0:
            features = backbone.encode("video", context).tokens
            if self.watched:
                self.health = of_vectors("feature", features.mean(dim=1))
            return self.decoder(features, context.position, places, grid=tokens.grid)
        encoder, positions = backbone.encoder("video"), backbone.tokenizers["video"].positions
        begin = len(encoder.blocks) - self.trunk_blocks
        x, _ = encoder.run(context.x, position=context.position, end=begin)
        if self.watched:
            self.health = of_vectors("feature", x.mean(dim=1))
        asked = self.mask_token.to(x.dtype).expand(*hidden.shape, -1)
        if positions is not None:
            asked = asked + positions(places, tokens.grid).to(x.dtype)
        everywhere = torch.cat([context.position, places], dim=1)
        y, _ = encoder.run(torch.cat([x, asked], dim=1), position=everywhere, begin=begin)
        return self.project(encoder.norm(y[:, x.shape[1] :]))

    @torch.no_grad()
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Nothing: there is no common space."""
        return {}
