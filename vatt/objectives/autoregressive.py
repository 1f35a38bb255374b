"""Predicting the next token (Rajasegaran et al. 2025, "An Empirical Study of Autoregressive Pre-training", Toto)."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vatt.models.backbone import Backbone
from vatt.models.codebooks import CodeTokenizer
from vatt.models.heads import NoProjection
from vatt.models.selection import to_device
from vatt.objectives.base import Losses, Objective
from vatt.objectives.distributed import gather_in_order, local_slice, world_size
from vatt.objectives.health import of_vectors
from vatt.objectives.pixels import PixelTarget, check_target, pixel_targets
from vatt.structures import Batch, Tokens

Predicted = Literal["codes", "patches"]


class Autoregressive(Objective):
    """L = mean over tokens of -log p(x_j | x_<j), or of (what is said of the next patch - its pixels)^2.

    The encoder is causal and its AGG token starts the sequence: what it says is about the first token. After the last
    token the end of the sequence is predicted, as one more code.

    Args:
        predicted: "codes" of a `vatt.models.codebooks.CodeTokenizer`, or "patches" of a `VideoTokenizer` whose patches
            are one frame long, so that none sees a later frame.
        tied: the matrix that scores codes is that of their embeddings.
        target: of patches, see `vatt.objectives.pixels.pixel_targets`.
        width_ratio: what is said is divided by it, see `vatt.training.optim.Optimization`.
        images: probability of a clip to become a sequence of images, which begins with a token of its own: each frame
            is of another clip of the batch, of all processes, as long as there are any. Above 0, pictures in the
            data, whose frames are all the same, always become sequences, of pictures alone. 0 has no such token: all
            are videos.

    ``by_token`` has the loss of each place, the end of the sequence last.
    """

    def __init__(
        self,
        predicted: Predicted = "codes",
        tied: bool = True,
        target: PixelTarget = "normalised",
        width_ratio: float = 1.0,
        images: float = 0.0,
    ) -> None:
        super().__init__()
        if predicted not in get_args(Predicted):
            raise ValueError(f"predicted are {' or '.join(get_args(Predicted))}, not {predicted!r}")
        check_target(target)
        self.predicted, self.tied, self.target, self.width_ratio = predicted, tied, target, width_ratio
        if not 0 <= images <= 1:
            raise ValueError(f"images is a probability from 0 to 1, not {images}")
        self.images = images
        if not 0 < width_ratio < math.inf:
            raise ValueError(f"width_ratio must be finite and above 0, not {width_ratio}")

    def build(self, backbone: Backbone) -> None:
        encoder = backbone.encoder("video") if "video" in backbone.modalities else None
        if encoder is None or not (encoder.causal and encoder.agg):
            raise ValueError("autoregression takes a video tower that starts and is causal: Transformer(causal=True)")
        tokenizer = backbone.tokenizers["video"]
        self.scores: nn.Linear | None = None
        if self.predicted == "codes":
            if not isinstance(tokenizer, CodeTokenizer):
                raise ValueError(f"codes are of a CodeTokenizer, not of a {type(tokenizer).__name__}")
            tokenizer.codebook.check()
            if not self.tied:
                self.scores = nn.Linear(encoder.out_width, tokenizer.codes.num_embeddings, bias=False)
        else:
            if isinstance(tokenizer, CodeTokenizer) or tokenizer.patch[0] != 1:
                raise ValueError("patches that follow each other are one frame long: patch=(1, P, P)")
            self.scores = nn.Linear(encoder.out_width, tokenizer.project.in_features)
        if self.scores is not None:
            nn.init.normal_(self.scores.weight, std=0.02)
        self.image_start = nn.Parameter(torch.randn(tokenizer.agg_width) * 0.02) if self.images else None

    def head(self) -> NoProjection:
        return NoProjection()

    def forward(self, backbone: Backbone, batch: Batch) -> Losses:
        """Return ``loss``, the losses of ``first_frame`` and ``later_frames``, and the number of encoded ``tokens``."""
        video, valid = batch["video"], batch["video_valid"]
        tokenizer, start = backbone.tokenizers["video"], None
        if self.image_start is not None:
            video, is_image = self.with_images(video, valid)
            start = torch.where(is_image.unsqueeze(1), self.image_start, backbone.agg["video"])
        patches = tokenizer.patchify(video)
        tokens = Tokens(tokenizer.embed(patches), patches.position, patches.valid, patches.grid)
        features = backbone.encode("video", tokens, start=start)
        said = torch.cat([features.agg.unsqueeze(1), features.tokens], dim=1)  # of the next one
        errors = self.errors(backbone, said, patches.x)
        weight = valid.to(errors.dtype) / valid.sum().clamp(min=1)
        # A clip without frames has weight 0 but stays in the graph.
        by_token = (errors * weight[:, None]).sum(dim=0)
        frame, all_frames = patches.x.shape[1] // patches.grid[0], patches.x.shape[1]
        if self.watched:
            self.by_token, self.health = by_token.detach(), of_vectors("feature", features.pooled, valid)
        named = {"first_frame": by_token[:frame].mean()}
        if patches.grid[0] > 1:
            named["later_frames"] = by_token[frame:all_frames].mean()
        return {"loss": by_token.mean(), **named, "tokens": patches.x.shape[:2].numel()}

    @torch.no_grad()
    def with_images(self, video: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, 3, H, W) of which some are sequences of images, and (B,) which; clips without a picture stay so."""
        (clips, frames), together = video.shape[:2], len(video) * world_size()
        per_clip = -(-frames // together)  # frames taken from each clip: one if there are enough clips

        def draw(*shape: int) -> Tensor:
            """Draw uniform numbers for the clips of all processes; return those of this process."""
            return local_slice(torch.rand(shape, generator=self.draws))

        still = (video == video[:, :1]).flatten(1).all(dim=1) & valid
        is_image = to_device(draw(together) < self.images, video.device) & valid | still
        frame = to_device((draw(together, per_clip) * frames).long(), video.device)
        candidates = gather_in_order(video[torch.arange(clips, device=video.device)[:, None], frame]).flatten(0, 1)
        all_valid, all_still = (gather_in_order(x).repeat_interleave(per_clip) for x in (valid, still))
        # Sequences of a still image are made of still images only, other sequences of any frames.
        is_allowed = all_valid & (all_still | ~still.unsqueeze(1))
        scores = to_device(draw(together, len(candidates)), video.device).masked_fill(~is_allowed, -1.0)
        order = scores.argsort(dim=1, descending=True, stable=True)  # ties: same order on every device
        again = torch.arange(frames, device=video.device) % is_allowed.sum(dim=1, keepdim=True).clamp(min=1)
        pictures = candidates[order.gather(1, again)]
        return torch.where(is_image.view(-1, 1, 1, 1, 1), pictures, video), is_image

    def errors(self, backbone: Backbone, said: Tensor, patches: Tensor) -> Tensor:
        """Loss of every place: codes (B, N + 1), patches (B, N).

        Args:
            said: (B, 1 + N, D) features, that of the start first.
            patches: (B, N, 1) codes, or (B, N, P) pixels.
        """
        said = said / self.width_ratio
        if self.predicted == "patches":
            wanted = pixel_targets(patches, self.target)
            return (self.scores(said[:, :-1]).float() - wanted).square().mean(dim=-1)
        embeddings = backbone.tokenizers["video"].codes
        ids = patches.squeeze(-1)
        ids = torch.cat([ids, ids.new_full((len(ids), 1), embeddings.num_embeddings - 1)], dim=1)
        scores = self.scores(said) if self.scores is not None else F.linear(said, embeddings.weight.to(said.dtype))
        return F.cross_entropy(scores.float().flatten(0, 1), ids.flatten(), reduction="none").view(ids.shape)

    @torch.no_grad()
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Nothing: there is no common space."""
        return {}
