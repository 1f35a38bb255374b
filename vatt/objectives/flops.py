"""How much computing a training step is."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vatt.models.backbone import Backbone
from vatt.objectives.base import Objective
from vatt.structures import Batch, ClipFormat


def step_flops(objective: Objective, backbone: Backbone, format: ClipFormat, clips: int = 4) -> float:
    """Floating-point operations of one clip in a training step, forwards and backwards, whatever the objective does.

    Matrix products and attention, by PyTorch's counter on tensors without content; a multiplication with the addition
    that follows counts as two. Where masks are not equally large in every batch, they are of their mean size.

    Args:
        objective: built for the backbone.
        backbone: as it is trained.
        format: of a clip; of texts each has as many as the format says.
        clips: that a process has in a step, on which depends how much V-JEPA's masks leave.
    """
    # A contrastive objective may have a text encoder that depends on values, which meta tensors do not have. Its FLOPs
    # per clip do not depend on the number of clips.
    device, clips = ("cpu", min(clips, 4)) if objective.compares_clips else ("meta", clips)
    both = nn.ModuleList([objective, backbone])
    # Weights are replaced while copying, so that on "meta" nothing of them is copied.
    memo = {
        id(x): nn.Parameter(x.detach().to(device, copy=True), requires_grad=x.requires_grad)
        if isinstance(x, nn.Parameter)
        else x.detach().to(device, copy=True)
        for x in [*both.parameters(), *both.buffers()]
    }
    objective, backbone = copy.deepcopy(both, memo)
    objective.draws, objective.watched = torch.Generator().manual_seed(0), False
    objective.use_expected_mask_sizes(backbone, clips)
    with torch.device(device):
        batch: Batch = {  # type: ignore[typeddict-item]
            "id": [str(i) for i in range(clips)],
            "video": torch.zeros(clips, format.num_frames, 3, format.size, format.size),
            "video_valid": torch.ones(clips, dtype=torch.bool),
            "audio": torch.zeros(clips, format.num_samples),
            "audio_valid": torch.ones(clips, dtype=torch.bool),
            "text": torch.zeros(clips, format.num_texts, format.num_words, dtype=torch.int64),
            "text_valid": torch.ones(clips, format.num_texts, dtype=torch.bool),
            "events": [],
        }
    # Fused attention is not counted on every device; two batched products are.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(backbone, batch)["loss"].backward()
    return counter.get_total_flops() / clips
