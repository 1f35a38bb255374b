from __future__ import annotations

import pytest
import torch

from tests.conftest import TINY, tiny_backbone
from tests.models.test_language import BERT
from vatt.models.backbone import Backbone
from vatt.models.flops import count_flops
from vatt.models.language import PretrainedText, PretrainedWords
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.structures import ClipFormat


def by_hand(tokens: int, kept: int, width: int, depth: int, mlp: int, patch: int) -> tuple[int, int]:
    """All operations, and those of queries times keys, of a tower."""
    n = kept + 1
    scores = depth * 2 * n * n * width
    return 2 * tokens * patch * width + depth * 2 * n * (4 * width * width + 2 * width * mlp) + 2 * scores, scores


def test_operations_are_those_of_the_matrix_products() -> None:
    found = {f.modality: f for f in count_flops(tiny_backbone(), TINY, {"audio": 0.5})}
    assert (found["video"].all, found["video"].scores) == by_hand(8, 8, 16, 2, 64, 3072)
    assert (found["audio"].all, found["audio"].scores) == by_hand(8, 4, 16, 2, 64, 128)
    assert (found["text"].all, found["text"].scores) == by_hand(6, 6, 16, 2, 64, 0)
    assert (found["audio"].tokens, found["audio"].kept) == (8, 4)


# Computed by hand for Medium; benchmarks/flops.py sets them beside the paper's.
@pytest.mark.parametrize(
    ("format", "drop"), [(ClipFormat(), 0.0), (ClipFormat(num_frames=64), 0.0), (ClipFormat(size=320), 0.75)]
)
def test_large_models_are_counted_without_memory(format: ClipFormat, drop: float) -> None:
    with torch.device("meta"):
        backbone = Backbone({"video": VideoTokenizer(1024)}, Transformer(1024, 12, 16))
    (found,) = count_flops(backbone, format, {"video": drop})
    tokens = format.num_frames // 4 * (format.size // 16) ** 2
    expected = by_hand(tokens, int(tokens * (1 - drop)), 1024, 12, 4096, 3072)
    # Positions on another grid are products too, small ones.
    assert found.all == pytest.approx(expected[0], rel=1e-4)
    assert backbone.training


def test_spectrograms_and_pretrained_texts_are_counted_without_memory() -> None:
    pytest.importorskip("transformers")
    with torch.device("meta"):
        tokenizers = {"audio": SpectrogramTokenizer(32), "text": PretrainedWords(config=BERT, length=6)}
        encoders = {"audio": Transformer(32, 1, 2), "text": PretrainedText(config=BERT)}
        audio, text = count_flops(Backbone(tokenizers, encoders), ClipFormat(num_words=6))
    assert audio.kept == 144
    assert audio.scores == 2 * 145 * 145 * 32
    assert text.scores == 2 * 2 * 6 * 6 * 16
