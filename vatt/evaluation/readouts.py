"""Readouts that are trained on the tokens of a video tower, frozen or not: depth, camera, points and boxes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from tqdm import tqdm

from vatt.evaluation.tracking import absolute_relative_error, average_jaccard, end_point_error, mean_iou, overlap
from vatt.models.backbone import Backbone
from vatt.models.positions import SinCos3D
from vatt.models.readouts import AttentionReadout, fourier

TASKS = ("depth", "camera", "points", "boxes")
METRICS = {"depth": "AbsRel", "camera": "end-point error", "points": "average Jaccard", "boxes": "mean IoU"}
PATCH = (4, 8, 8)  # of the depth that one query tells
LR, WEIGHT_DECAY, BATCH, WARMUP = 1e-3, 1e-2, 16, 0.1
SCALED = 64  # scenes whose tokens tell means and spreads
TOWER = 0.1  # of that learning rate, of a tower that is trained too

Truth = dict[str, Tensor]


@dataclass
class Inputs:
    """Scenes of a split.

    Attributes:
        x: (N, L, D) tokens, or (N, T, 3, H, W) videos for a tower that is trained too.
        truth: depth (N, T, H, W), camera (N, T, 3), boxes (N, T, K, 4), points (N, T, P, 2), visible (N, T, P).
    """

    x: Tensor
    truth: Truth = field(default_factory=dict)


class TaskReadout(nn.Module):
    """A readout with the queries, the loss and the metric of a task.

    Learned queries begin as sines and cosines of the places they tell. Tokens are standardised by the means and spreads
    that `scale_by` has seen, as in linear probes of masked autoencoders: a tower's tokens have much in common, beside
    which what tells them apart is small.

    Args:
        task: depth, camera, points or boxes.
        width: D of the tokens.
        times: of the tokens.
        truth: of a scene or more, for the sizes.
    """

    def __init__(self, task: str, width: int, times: int, truth: Truth) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"a readout is for {', '.join(TASKS)}, not {task!r}")
        self.task, (self.frames, *size) = task, truth["depth"].shape[1:]
        self.grid = (self.frames // PATCH[0], size[0] // PATCH[1], size[1] // PATCH[2])
        if task == "depth":
            count = self.grid[0] * self.grid[1] * self.grid[2]
            self.readout = AttentionReadout(width, times, PATCH[0] * PATCH[1] * PATCH[2], queries=count)
            self._begin_at(self.grid)
        elif task == "camera":
            self.readout = AttentionReadout(width, times, 3, queries=self.frames)
            self._begin_at((self.frames, 1, 1))
        else:
            numbers, out = (2, 3) if task == "points" else (4, 4)
            asked = fourier(torch.zeros(1, numbers)).shape[1]
            self.readout = AttentionReadout(width, times, self.frames * out, query_width=asked)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("spread", torch.ones(width))
        # What is told is told beside what is usual.
        self.register_buffer("usual", truth["depth"].log().mean() if task == "depth" else torch.zeros(()))

    def _begin_at(self, grid: tuple[int, int, int]) -> None:
        places = torch.cartesian_prod(*(torch.arange(size) for size in grid))[None]
        queries = self.readout.queries
        queries.data.copy_(SinCos3D(3, queries.shape[1])(places)[0])

    def scale_by(self, tokens: Tensor) -> None:
        """Take means and spreads of the D numbers of (N, L, D) tokens."""
        spread, mean = torch.std_mean(tokens.flatten(0, 1), dim=0)
        self.mean.copy_(mean)
        self.spread.copy_(spread.clamp(min=1e-6))

    def forward(self, tokens: Tensor, truth: Truth) -> dict[str, Tensor]:
        """What is told, under the names of the truth, of which only the first frame is looked at."""
        tokens = (tokens - self.mean) / self.spread
        if self.task == "depth":
            said = self.readout(tokens).view(len(tokens), *self.grid, *PATCH).permute(0, 1, 4, 2, 5, 3, 6)
            return {"depth": (said.reshape(len(tokens), *truth["depth"].shape[1:]) + self.usual).exp()}
        if self.task == "camera":
            return {"camera": self.readout(tokens)}
        first = truth[self.task][:, 0]
        said = self.readout(tokens, fourier(first)).unflatten(-1, (self.frames, -1)).transpose(1, 2)
        if self.task == "boxes":
            return {"boxes": first[:, None] + said}
        return {"points": first[:, None] + said[..., :2], "visible": said[..., 2]}

    def loss(self, said: dict[str, Tensor], truth: Truth) -> Tensor:
        """What is minimised."""
        if self.task == "depth":
            return F.l1_loss(said["depth"].log(), truth["depth"].log())
        if self.task == "camera":
            return F.smooth_l1_loss(said["camera"], truth["camera"], beta=0.1)
        if self.task == "boxes":
            near = F.smooth_l1_loss(said["boxes"], truth["boxes"], beta=0.02)
            return near + 0.05 * (1 - generalised_iou(said["boxes"], truth["boxes"])).mean()
        visible = truth["visible"]
        near = F.smooth_l1_loss(said["points"], truth["points"], beta=0.02, reduction="none").mean(dim=-1)
        seen = F.binary_cross_entropy_with_logits(said["visible"], visible.float())
        return (near * visible).sum() / visible.sum().clamp(min=1) + 0.02 * seen

    def metric(self, said: dict[str, Tensor], truth: Truth) -> float:
        """See `METRICS`."""
        if self.task == "points":
            found = average_jaccard(said["points"], said["visible"] > 0, truth["points"], truth["visible"])
        else:
            measure = {"depth": absolute_relative_error, "camera": end_point_error, "boxes": mean_iou}[self.task]
            found = measure(said[self.task], truth[self.task])
        return float(found)


def train_and_measure(
    task: str,
    train: Inputs,
    test: Inputs,
    times: int,
    tower: Backbone | None = None,
    steps: int = 1_500,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> float:
    """Train a readout with AdamW, a warm-up and a cosine to 0, and measure it on other scenes.

    Args:
        task: see `TaskReadout`.
        train, test: scenes.
        times: of the tokens.
        tower: a tower that is trained too, with a tenth of the learning rate; None where tokens are given. It is
            changed.
        steps: of the training, 16 scenes each.
        seed: of weights and batches; the random state outside is left as it was.
        device: where it is trained.
    """

    def tokens_of(x: Tensor) -> Tensor:
        return x.float() if tower is None else tower("video", x).tokens

    with torch.random.fork_rng(), torch.inference_mode(False):
        torch.manual_seed(seed)
        if tower is not None:
            tower.to(device).train()
        width = train.x.shape[-1] if tower is None else tower.encoder("video").out_width
        readout = TaskReadout(task, width, times, train.truth).to(device)
        with torch.no_grad():
            readout.scale_by(tokens_of(train.x[:SCALED].to(device)))
        groups = [{"params": list(readout.parameters()), "lr": LR}]
        groups += [] if tower is None else [{"params": list(tower.parameters()), "lr": TOWER * LR}]
        optimizer = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        warmup = max(1, round(WARMUP * steps))
        rise = LinearLR(optimizer, 1 / warmup, total_iters=warmup)
        fall = CosineAnnealingLR(optimizer, max(1, steps - warmup))
        schedule = SequentialLR(optimizer, [rise, fall], milestones=[warmup])
        for _ in tqdm(range(steps), desc=f"readout of {task}", disable=None, leave=False):
            rows = torch.randint(len(train.x), (min(BATCH, len(train.x)),))
            truth = {name: x[rows].to(device) for name, x in train.truth.items()}
            loss = readout.loss(readout(tokens_of(train.x[rows].to(device)), truth), truth)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        for module in filter(None, (readout, tower)):
            module.eval()
        said: dict[str, list[Tensor]] = {}
        with torch.no_grad():
            for begin in range(0, len(test.x), BATCH):
                truth = {name: x[begin : begin + BATCH].to(device) for name, x in test.truth.items()}
                for name, x in readout(tokens_of(test.x[begin : begin + BATCH].to(device)), truth).items():
                    said.setdefault(name, []).append(x.cpu())
        return readout.cpu().metric({name: torch.cat(parts) for name, parts in said.items()}, test.truth)


def without_looking(task: str, train: Inputs, test: Inputs) -> float:
    """The metric of what can be said without the video: the mean depth, and that nothing moves."""
    truth = test.truth
    still: dict[str, Callable[[], dict[str, Tensor]]] = {
        "depth": lambda: {"depth": train.truth["depth"].log().mean().exp().expand_as(truth["depth"])},
        "camera": lambda: {"camera": torch.zeros_like(truth["camera"])},
        "boxes": lambda: {"boxes": truth["boxes"][:, :1].expand_as(truth["boxes"])},
        "points": lambda: {
            "points": truth["points"][:, :1].expand_as(truth["points"]),
            "visible": torch.ones(truth["visible"].shape),
        },
    }
    return TaskReadout(task, 8, 1, truth).metric(still[task](), truth)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """(…,) of boxes (…, 4), left, top, right, bottom (Rezatofighi et al. 2019)."""
    shared, union = overlap(a, b)
    outer = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    around = outer.prod(dim=-1).clamp(min=1e-9)
    return shared / union - (around - union) / around
