from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from tests.conftest import TINY
from tests.training.runs import logged, train
from vatt.evaluation.plots import plot_tokens
from vatt.models.backbone import Backbone
from vatt.models.flops import count_flops
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.objectives.autoregressive import Autoregressive
from vatt.training.optim import Optimization
from vatt.training.pretrain import PretrainModule

VECTORS = ("video_va", "audio_va", "video_vt", "text_vt")


def test_what_is_logged(corpus: Path, tmp_path: Path) -> None:
    _, module = train(corpus, tmp_path, steps=4, log_every_n_steps=2)
    for name in (
        *(f"health/{vectors}_{sign}" for vectors in VECTORS for sign in ("spread", "rank")),
        *(f"health/{sign}_{pair}" for pair in ("video_audio", "video_text") for sign in ("positive", "negative")),
        *(f"gradient/{tower}" for tower in ("video", "audio", "text", "head")),
    ):
        values = logged(tmp_path, name)
        assert list(values) == [1, 3], name
        assert all(-1 <= value < 1e6 for value in values.values()), name
    assert list(logged(tmp_path, "health/temperature_video_audio").values()) == pytest.approx([0.07, 0.07])
    assert 1 <= logged(tmp_path, "health/video_va_rank")[1] <= 4  # of four clips
    # Half of the tokens of video and audio, all of the texts.
    parts = {part.modality: part.all for part in count_flops(module.backbone, TINY, {"video": 0.5, "audio": 0.5})}
    flops = parts["video"] + parts["audio"] + TINY.num_texts * parts["text"]
    clips = logged(tmp_path, "speed/clips_per_s")
    for step, rate in logged(tmp_path, "speed/tflops_per_s").items():
        assert rate == pytest.approx(3 * flops * clips[step] / 1e12, rel=1e-3)


class Norms(L.Callback):
    """The norms of all gradients together."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm().item())


def test_the_towers_gradients_are_the_whole(corpus: Path, tmp_path: Path) -> None:
    norms = Norms()
    train(corpus, tmp_path, steps=3, watch=norms)
    squares = [logged(tmp_path, f"gradient/{tower}") for tower in ("video", "audio", "text", "head")]
    for step, norm in enumerate(norms.seen):
        assert sum(square[step] ** 2 for square in squares) ** 0.5 == pytest.approx(norm, rel=1e-4)


class Collapse(L.Callback):
    """Makes all sounds alike."""

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        with torch.no_grad():
            module.objective.projection.audio_to_va.weight.mul_(1e-3)  # type: ignore[union-attr, operator]
            module.objective.projection.audio_to_va.bias.fill_(1.0)  # type: ignore[union-attr, operator]


def test_collapse_is_said_in_words_and_once(corpus: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="audio_va of all clips are almost the same .* has collapsed") as said:
        train(corpus, tmp_path / "collapsed", steps=6, batch_size=8, watch=Collapse())
    assert sum("audio_va of all clips" in str(each.message) for each in said) == 1
    with warnings.catch_warnings(record=True) as quiet:
        warnings.simplefilter("always")
        train(corpus, tmp_path / "well", steps=6, batch_size=8)
    assert not [each for each in quiet if "video_va of all clips" in str(each.message)]


def test_the_loss_of_each_token_is_kept(corpus: Path, tmp_path: Path) -> None:
    """A moving average over the steps that were logged, also of those before an interruption."""

    def made() -> PretrainModule:
        torch.manual_seed(0)
        tokenizer = VideoTokenizer(16, (TINY.num_frames, 2, 2), (1, TINY.size // 2, TINY.size // 2), positions="none")
        trunk = Transformer(16, 1, 2, causal=True, rotary="sequence")
        backbone = Backbone({"video": tokenizer}, {"video": trunk})
        return PretrainModule(backbone, Autoregressive("patches"), Optimization(lr=1e-3, warmup_steps=1))

    files = []
    for stop in (None, 2):
        folder, how = tmp_path / str(stop), {"text": False, "val_fraction": 0.0}
        if stop is not None:
            train(corpus, folder, steps=4, stop_after=stop, module=made(), **how)
        train(corpus, folder, steps=4, resume=stop is not None, module=made(), **how)
        files.append((folder / "loss_by_token.csv").read_text())
    assert files[0] == files[1]
    rows = files[0].splitlines()
    assert rows[0] == "token,loss"
    assert len(rows) == 1 + TINY.num_frames * 4
    assert [int(row.split(",")[0]) for row in rows[1:]] == list(range(TINY.num_frames * 4))
    pictures = plot_tokens(folder, tmp_path / "tokens.png")
    assert Image.open(pictures[0]).size[0] > 500
    with pytest.raises(FileNotFoundError, match="loss_by_token"):
        plot_tokens(tmp_path, tmp_path / "no.png")
