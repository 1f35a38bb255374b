"""VATT's objective: NCE between video and audio, MIL-NCE between video and text (section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection, Projection
from vatt.models.precision import single_precision
from vatt.models.selection import KeepRule, check_drop, draw_keep
from vatt.objectives.base import Losses, Objective
from vatt.objectives.distributed import (
    assert_same_across_ranks,
    distributed_pairwise_logsumexp,
    gather,
    local_slice,
    world_size,
)
from vatt.objectives.grad_cache import grad_cache_forward
from vatt.objectives.health import of_vectors, similarities
from vatt.objectives.losses import Form, Mean, mil_nce, nce
from vatt.structures import MODALITIES, Batch

Statistics = Literal["valid", "all"]
PAIRS = ("video_audio", "video_text")
COLDEST = 0.01  # a learned temperature does not fall below it (CLIP, section 2.5)


class Contrastive(Objective):
    """L = (w_va * NCE(video, audio) + w_vt * MIL-NCE(video, text)) / (w_va + w_vt).

    Args:
        head: makes the projection from the widths of the pooled features, by modality: a class of `vatt.models.heads`,
            or a function that calls one; in a configuration ``class_path`` and the other ``init_args``.
        statistics: what enters the batch statistics of the head: "valid" rows, or "all" of them, as in the released
            code.
        temperature: of both losses, or of each by name: ``{"video_audio": 0.07, "video_text": 0.05}``.
        learn_temperature: train the temperatures, each pair its own, beginning at ``temperature``.
        video_audio_weight: w_va; 0 leaves the term out.
        video_text_weight: w_vt; 0 leaves the term out.
        drop_video: share of the video tokens that training drops (DropToken); the paper drops a half.
        drop_audio: the same for audio. Text tokens are never dropped.
        per_sample: drop other tokens in every clip; False drops the same places in the whole batch.
        keep_rule: see `vatt.models.selection.drop_token`.
        form: "asymmetric" or "symmetric"; see `vatt.objectives.losses`.
        mean: "pairs" or "official"; see there.
        per_sentence: each of a clip's texts is valid by itself. False, the released code: a clip has text or has not,
            and an empty sentence of a clip that has some is a positive like any other.
        micro_batch: clips that training encodes at a time; loss and gradients are those of the whole batch, with the
            memory of a micro-batch and a second forward pass. See `vatt.objectives.grad_cache`. None encodes all
            at once.

    A term whose modality the batch does not have, or has nowhere valid, counts 0 and leaves the other's weight as it
    is.
    """

    compares_clips = True

    def __init__(
        self,
        head: Callable[[dict[str, int]], Projection] = HierarchicalProjection,
        statistics: Statistics = "valid",
        temperature: float | dict[str, float] = 0.07,
        learn_temperature: bool = False,
        video_audio_weight: float = 1.0,
        video_text_weight: float = 1.0,
        drop_video: float = 0.5,
        drop_audio: float = 0.5,
        per_sample: bool = False,
        keep_rule: KeepRule = "tokens",
        form: Form = "asymmetric",
        mean: Mean = "pairs",
        per_sentence: bool = True,
        micro_batch: int | None = None,
    ) -> None:
        super().__init__()
        weights = {"video_audio": video_audio_weight, "video_text": video_text_weight}
        if not all(0 <= weight < math.inf for weight in weights.values()) or not any(weights.values()):
            raise ValueError(
                "video_audio_weight and video_text_weight must be finite and at least 0, and one of them above 0, not "
                f"{video_audio_weight} and {video_text_weight}"
            )
        if not callable(head):
            raise ValueError(f"head must be a class of vatt.models.heads or a function that makes one, not {head!r}")
        for name, value, known in (
            ("statistics", statistics, get_args(Statistics)),
            ("form", form, get_args(Form)),
            ("mean", mean, get_args(Mean)),
            ("keep_rule", keep_rule, get_args(KeepRule)),
        ):
            if value not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, not {value!r}")
        if micro_batch is not None and micro_batch < 1:
            raise ValueError(f"micro_batch must be at least 1, not {micro_batch}")
        self.micro_batch = micro_batch
        self._present: tuple[str, ...] | None = None  # modalities of all batches
        self.make_head: Callable[[dict[str, int]], Projection] | None = head
        self.statistics = statistics
        self.weights = weights
        self.drop = {"video": drop_video, "audio": drop_audio, "text": 0.0}
        for modality, drop in self.drop.items():
            check_drop(drop, f"drop_{modality}")
        self.per_sample, self.keep_rule = per_sample, keep_rule
        self.form, self.mean, self.per_sentence = form, mean, per_sentence
        first = dict.fromkeys(PAIRS, temperature) if not isinstance(temperature, dict) else temperature
        if set(first) != set(PAIRS) or not all(0 < value < math.inf for value in first.values()):
            raise ValueError(f"temperature must be above 0, one number or one each for {PAIRS}, not {temperature}")
        self.first_temperature = first
        # As a logarithm, so that a step changes it by a share.
        learned = [name for name in PAIRS if self.weights[name]] if learn_temperature else []
        self.log_temperature = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(math.log(first[name]))) for name in learned}
        )

    def build(self, backbone: Backbone) -> None:
        widths = {modality: backbone.width(modality) for modality in backbone.modalities}
        if self.make_head is None:
            raise RuntimeError("this objective has its layers already: make another one for another backbone")
        self.projection = self.make_head(widths)
        self.make_head = None  # a function of a configuration cannot be sent to another process

    def head(self) -> Projection:
        return self.projection

    def temperature(self, pair: str) -> float | Tensor:
        """The temperature of a pair: a scalar with a gradient where it is learned."""
        return self.log_temperature[pair].exp() if pair in self.log_temperature else self.first_temperature[pair]

    @torch.no_grad()
    def after_step(self, backbone: Backbone) -> None:
        """Keep learned temperatures at or above `COLDEST`."""
        for value in self.log_temperature.values():
            value.clamp_(min=math.log(COLDEST))

    def forward(self, backbone: Backbone, batch: Batch) -> Losses:
        """Return ``loss``, ``video_audio``, ``video_text``, learned temperatures and the number of ``tokens``."""
        present = tuple(modality for modality in backbone.modalities if modality in batch)
        if self._present is None:
            assert_same_across_ranks(present, "modalities in the batches")
            self._present = present
        if world_size() > 1 and present != self._present:  # the others would wait for it forever
            raise ValueError(
                f"this batch has {' and '.join(present)}, and those before had {' and '.join(self._present)}: with "
                "several processes give zeros that are not valid in place of what is not there"
            )
        pooled, valid, tokens = self._features(backbone, batch)
        # Heads and losses see the batch of all processes: its negatives and its batch statistics.
        pooled = {modality: gather(x) for modality, x in pooled.items()}
        valid = {modality: gather(x) for modality, x in valid.items()}
        with single_precision(pooled["video"]):
            z = self._project(pooled, valid)
        # What has no part in the loss has gradients of 0: with DDP, every weight must have one.
        used = [*pooled.values(), *z.values()]
        if present != backbone.modalities:
            used += [*backbone.parameters(), *self.projection.parameters()]
        zero = sum(x.sum() for x in used) * 0.0
        terms = dict.fromkeys(PAIRS, zero)
        how = {"form": self.form, "mean": self.mean, "sums": distributed_pairwise_logsumexp}
        if "audio" in pooled and self.weights["video_audio"]:
            tau = self.temperature("video_audio")
            terms["video_audio"] = nce(z["video_va"], z["audio_va"], tau, valid["video"], valid["audio"], **how)
        if "text" in pooled and self.weights["video_text"]:
            tau, (rows, texts) = self.temperature("video_text"), valid["text"].shape
            text = z["text_vt"].view(rows, texts, -1)
            terms["video_text"] = mil_nce(z["video_vt"], text, tau, valid["video"], valid["text"], **how)
        loss = sum(self.weights[name] * term for name, term in terms.items()) / sum(self.weights.values())
        if self.watched:
            self.health = self._health(z, valid)
        learned = {f"temperature_{name}": self.temperature(name) for name in self.log_temperature}
        return {"loss": loss, **terms, **learned, "tokens": tokens}

    @torch.no_grad()
    def embed(self, backbone: Backbone, batch: Batch) -> dict[str, Tensor]:
        """Return ``video_va``, ``audio_va`` and ``video_vt`` (B, E), and ``text_vt`` (B, K, E)."""
        pooled, _, _ = self._features(backbone, batch)
        with single_precision(pooled["video"]):
            vectors = self.projection(pooled)
        if "text_vt" in vectors:
            vectors["text_vt"] = vectors["text_vt"].unflatten(0, batch["text"].shape[:2])
        return vectors

    def _features(self, backbone: Backbone, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        """Pooled features (text: (B K, D)) in the head's precision; which are valid; and how many tokens went through
        the transformers.
        """
        pooled: dict[str, Tensor] = {}
        valid: dict[str, Tensor] = {}
        tokens, precision = 0, next(self.projection.parameters()).dtype
        for modality in MODALITIES:
            if modality not in batch or modality not in backbone.modalities:
                continue
            raw, valid[modality] = batch[modality], batch[f"{modality}_valid"]  # type: ignore[literal-required]
            if modality == "text":
                raw = raw.flatten(0, 1)
                if not self.per_sentence:
                    valid[modality] = valid[modality].any(dim=1, keepdim=True).expand_as(valid[modality])
            rows_per_clip = valid[modality].numel() // len(valid[modality])
            features, encoded = self._encode(backbone, modality, raw, rows_per_clip)
            pooled[modality], tokens = features.to(precision), tokens + encoded
        return pooled, valid, tokens

    @torch.no_grad()
    def _health(self, z: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: valid[name.partition("_")[0]].flatten() for name in z}
        health: dict[str, Tensor] = {}
        for name, x in z.items():
            health |= of_vectors(name, x, rows[name])
        for pair, short in zip(PAIRS, ("va", "vt"), strict=True):
            x, y = f"video_{short}", f"{pair.partition('_')[2]}_{short}"
            if x not in z or y not in z or not self.weights[pair]:
                continue
            first = len(rows[y]) // len(rows[x])  # of a clip's texts
            positive, negative = similarities(z[x], z[y][::first], rows[x] & rows[y][::first])
            temperature = positive.new_ones(()) * self.temperature(pair)
            health |= {f"positive_{pair}": positive, f"negative_{pair}": negative, f"temperature_{pair}": temperature}
        return health

    def _encode(self, backbone: Backbone, modality: str, raw: Tensor, rows_per_clip: int) -> tuple[Tensor, int]:
        """The pooled features of a raw signal, and how many tokens went through the transformer."""
        tokenizer, keep, size = backbone.tokenizers[modality], None, None
        num_tokens = tokenizer.patchify(raw[:1]).x.shape[1]
        if self.training:
            kwargs = {"per_sample": self.per_sample, "rule": self.keep_rule, "device": raw.device, "part": local_slice}
            total = len(raw) * world_size()  # process r has clips r, r + world, … (vatt.datasets.loading.sampling)
            keep = draw_keep(total, num_tokens, self.drop[modality], tokenizer.grid, generator=self.draws, **kwargs)
            size = None if self.micro_batch is None else self.micro_batch * rows_per_clip

        def encode(raw: Tensor, keep: Tensor | None) -> Tensor:
            tokens = backbone.tokenize(modality, raw)
            return backbone.encode(modality, tokens if keep is None else tokens.take(keep)).pooled

        encoded = num_tokens if keep is None else keep.shape[1]
        return grad_cache_forward(encode, size, raw, keep), len(raw) * (encoded + 1)

    def _project(self, pooled: dict[str, Tensor], valid: dict[str, Tensor]) -> dict[str, Tensor]:
        """Project; ``statistics="valid"`` excludes invalid rows from batch statistics and sets them to zeros."""
        if self.statistics == "all":
            return self.projection(pooled)
        return self.projection(pooled, {modality: valid[modality].flatten() for modality in pooled})
