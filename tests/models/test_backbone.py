from __future__ import annotations

import pytest
import torch

from tests.conftest import tiny_backbone, tiny_batch
from vatt.errors import InputError
from vatt.models.backbone import Backbone, check_format
from vatt.models.codebooks import CodeTokenizer, PatchCodes
from vatt.models.heads import LinearClassifier, NoProjection
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, Tokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT, Classifier
from vatt.structures import ClipFormat


def raw(batch: dict, modality: str) -> torch.Tensor:
    return batch["text"][:, 0] if modality == "text" else batch[modality]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("modality", ["video", "audio", "text"])
def test_clips_do_not_touch_each_other(shared: bool, modality: str) -> None:
    backbone, batch = tiny_backbone(shared).eval(), tiny_batch(4)
    together = backbone(modality, raw(batch, modality))
    for i in range(4):
        alone = backbone(modality, raw(batch, modality)[i : i + 1])
        assert torch.allclose(together.pooled[i], alone.pooled[0], atol=1e-5)
    assert (together.pooled[0] - together.pooled[1]).abs().max() > 1e-3


def test_agnostic_shares_one_transformer_and_specific_none() -> None:
    agnostic, specific = tiny_backbone(shared=True), tiny_backbone()
    assert list(agnostic.transformers) == ["shared"]
    assert sorted(specific.transformers) == ["audio", "text", "video"]

    def count(module: torch.nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    assert 3 * count(agnostic.transformers) == count(specific.transformers)
    assert sorted(agnostic.agg) == ["audio", "text", "video"]


def test_the_agg_token_is_first_and_has_no_position() -> None:
    backbone, batch = tiny_backbone().eval(), tiny_batch(2)
    tokens = backbone.tokenize("video", batch["video"])
    features = backbone.encode("video", tokens, layers=True)
    x = torch.cat([backbone.agg["video"].expand(2, 1, -1), tokens.x], dim=1)
    expected, layers = backbone.transformers["video"](x, layers=True)
    assert torch.allclose(features.pooled, expected[:, 0])
    assert torch.allclose(features.tokens, expected[:, 1:])
    assert len(features.layers) == len(layers) == 2


def test_padding_does_not_change_a_text() -> None:
    backbone = tiny_backbone().eval()
    short = backbone("text", torch.tensor([[3, 4, 5]]))
    padded = backbone("text", torch.tensor([[3, 4, 5, 0, 0, 0]]))
    assert torch.allclose(short.pooled, padded.pooled, atol=1e-5)


def test_the_order_of_kept_tokens_does_not_matter() -> None:
    backbone, batch = tiny_backbone().eval(), tiny_batch(2)
    tokens = backbone.tokenize("video", batch["video"])
    keep = torch.tensor([[0, 2, 5, 7], [1, 2, 3, 4]])
    a = backbone.encode("video", tokens.take(keep)).pooled
    b = backbone.encode("video", tokens.take(keep.flip(1))).pooled
    assert torch.allclose(a, b, atol=1e-5)
    everything = backbone.encode("video", tokens).pooled
    assert not torch.allclose(a, everything, atol=1e-3)


def test_parts_that_do_not_fit_are_named() -> None:
    audio, text = AudioTokenizer(16, length=8), TextTokenizer(8, 10)
    with pytest.raises(ValueError, match="text: the tokenizer is 8 wide and the transformer 16"):
        Backbone({"audio": audio, "text": text}, Transformer(16, 1, 2))
    with pytest.raises(ValueError, match=r"tokenizers are for \['audio'\] and transformers for \['video'\]"):
        Backbone({"audio": audio}, {"video": Transformer(16, 1, 2)})
    with pytest.raises(ValueError, match="unknown modality 'smell'"):
        Backbone({"smell": audio}, Transformer(16, 1, 2))


def test_features_pass_a_projection_of_their_modality() -> None:
    plain, batch = tiny_backbone(shared=True).eval(), tiny_batch(2)
    projected = Backbone(dict(plain.tokenizers), plain.encoder("video"), post_width=10)
    projected.agg = plain.agg
    assert projected.width("video") == 10
    features = projected("video", batch["video"])
    layer = projected.post_projections["video"]
    before = plain("video", batch["video"])
    assert torch.allclose(features.pooled, torch.nn.functional.gelu(layer(before.pooled)), atol=1e-6)
    assert torch.allclose(features.tokens, torch.nn.functional.gelu(layer(before.tokens)), atol=1e-6)
    assert sorted(projected.post_projections) == ["audio", "text", "video"]


def test_an_agg_token_among_the_words_goes_through_their_projection() -> None:
    words = TextTokenizer(16, 10, length=6, embedding_width=5, positions=False, agg_in_embedding=True)
    backbone = Backbone({"text": words}, Transformer(16, 2, 2, relative=(8, 16))).eval()
    assert backbone.agg["text"].shape == (5,)
    ids = torch.tensor([[3, 4, 0, 0, 0, 0]])
    first = torch.nn.functional.gelu(words.project(backbone.agg["text"]))
    x = torch.cat([first.expand(1, 1, -1), words(ids).x], dim=1)
    valid = torch.tensor([[True, True, True, False, False, False, False]])
    assert torch.allclose(backbone("text", ids).pooled, backbone.encoder("text")(x, valid)[0][:, 0], atol=1e-6)


def test_tokenizers_compute_the_grid_of_a_format_without_a_clip() -> None:
    format = ClipFormat(num_frames=8, fps=8.0, size=32, sample_rate=16_000, num_words=6)
    codebook = PatchCodes(codes=4, stride=8)
    codebook.centres.normal_()
    clips = {
        "video": torch.zeros(1, 8, 3, 32, 32),
        "audio": torch.zeros(1, 16_000),
        "text": torch.zeros(1, 6, dtype=torch.int64),
    }
    for modality, tokenizer in (
        ("video", VideoTokenizer(8, grid=(1, 1, 1))),
        ("video", CodeTokenizer(8, codebook)),
        ("audio", AudioTokenizer(8, length=5)),
        ("audio", SpectrogramTokenizer(8, grid=(2, 16), patch=(4, 5), sample_rate=16_000)),
        ("text", TextTokenizer(8, vocabulary_size=9, length=7)),
    ):
        assert tokenizer.grid_of(format) == tokenizer.patchify(clips[modality]).grid


def test_formats_that_do_not_fit_the_tokenizers_are_refused() -> None:
    def tower(modality: str, tokenizer: Tokenizer) -> Backbone:
        return Backbone({modality: tokenizer}, Transformer(8, depth=1, heads=2))

    joint = tower("video", VideoTokenizer(8, grid=(2, 2, 2), positions="joint"))
    spectrogram = tower("audio", SpectrogramTokenizer(8, sample_rate=16_000))
    check_format(joint, ClipFormat(num_frames=8, size=64))
    check_format(spectrogram, ClipFormat(sample_rate=16_000))
    for backbone, format, match in (
        (joint, ClipFormat(num_frames=12, size=32), "format.num_frames or format.size .* cannot be read at .3, 2, 2."),
        (
            spectrogram,
            ClipFormat(sample_rate=16_000, audio_s=0.5),
            "format.audio_s does not fit .* at least 15361 samples",
        ),
    ):
        with pytest.raises(InputError, match=match):
            check_format(backbone, format)
        with pytest.raises(InputError, match=match):
            VATT(backbone, NoProjection(), format)
        with pytest.raises(InputError, match=match):
            Classifier(backbone, LinearClassifier(8, 3), format)
