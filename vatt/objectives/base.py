"""What a pretraining objective is: it makes its layers for a backbone and turns a batch into named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vatt.models.backbone import Backbone
from vatt.models.part import Part
from vatt.structures import Batch

Losses = dict[str, "Tensor | int"]  # scalars by name; "tokens" is a plain number


class Objective(nn.Module, ABC):
    """Base of the objectives; a new one is one file beside this.

    Attributes:
        compares_clips: the loss of a batch is more than the mean of its clips' losses: it depends on which they are.
        draws: CPU generator that all processes share; it is seeded in every step. None uses PyTorch's global one. Each
            process draws for the clips of all processes, so results do not depend on their number. Sizes may depend on
            a draw, and reading them from a GPU would synchronize it.
        progress: share of the training that is done, from 0 to 1, for schedules of an objective's own.
        watched: fill ``health`` in the next forward pass.
        by_token: loss of each token in the last batch that was watched, in order; None where it has no order.
        health: collapse diagnostics, scalars by name: for vectors ``name``, ``name_spread`` and ``name_rank`` (see
            `vatt.objectives.health`), and their number ``name_count``. NaN if a batch has too few vectors.
    """

    compares_clips: bool = False
    draws: torch.Generator | None = None
    progress: float = 0.0
    watched: bool = False
    by_token: Tensor | None = None

    def __init__(self) -> None:
        super().__init__()
        self.health: dict[str, Tensor] = {}

    def build(self, backbone: Backbone) -> None:
        """Make the layers that depend on the backbone's widths. Called once, before anything else."""

    @abstractmethod
    def forward(self, backbone: Backbone, batch: Batch) -> Losses:
        """Return scalars by name: "loss", which is minimized, its terms, and other values to log.

        ``tokens``, the number of encoded tokens, is an int. The device must not be synchronized here.
        """

    def after_step(self, backbone: Backbone) -> None:
        """Called after every optimizer step (a moving average of the weights lives here)."""

    @abstractmethod
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Common-space vectors by name, (B, E) each and (B, K, E) for texts, in evaluation mode."""

    @abstractmethod
    def head(self) -> Part:
        """The part that is exported together with the backbone."""

    def use_expected_mask_sizes(self, backbone: Backbone, clips: int) -> None:
        """From now on have every batch need the mean of operations, where that depends on what is drawn.

        For counting, not for training.
        """

    def exported(self, backbone: Backbone) -> Backbone:
        """The backbone that is saved: the trained one, unless an objective makes a better one of it."""
        return backbone
