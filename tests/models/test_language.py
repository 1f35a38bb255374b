from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL_HEAD, TINY, tiny_batch
from vatt.errors import InputError
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection
from vatt.models.language import LinearText, PretrainedText, PretrainedWords
from vatt.models.tokenizers import TextTokenizer, VideoTokenizer
from vatt.models.transformer import Transformer
from vatt.models.vatt import VATT
from vatt.objectives.contrastive import Contrastive

IDS = torch.tensor([[3, 4, 5, 0, 0, 0], [1, 2, 3, 4, 5, 9]])
T5 = {
    "model_type": "t5",
    "vocab_size": 12,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 24,
    "num_layers": 2,
    "num_heads": 2,
    "pad_token_id": 0,
}
BERT = {
    "model_type": "bert",
    "vocab_size": 12,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def test_the_linear_encoder_is_the_largest_value_over_the_words() -> None:
    words = TextTokenizer(10, 12, length=6, positions=False)
    for counted in (False, True):
        encoder = LinearText(10, 7, count_padding=counted)
        backbone = Backbone({"text": words}, {"text": encoder}).eval()
        features = backbone("text", IDS)
        for i, ids in enumerate(IDS):
            each = torch.stack([torch.relu(encoder.linear(words.words.weight[n])) for n in ids if counted or n != 0])
            assert torch.allclose(features.pooled[i], each.amax(0), atol=1e-6)
        assert backbone.width("text") == 7
        assert not backbone.agg


@pytest.fixture
def pretrained(tmp_path: Path) -> dict[str, Path]:
    """Tiny models as the Hub has them: folders of transformers."""
    transformers = pytest.importorskip("transformers")
    for name, config in (("t5", T5), ("bert", BERT)):
        made = transformers.AutoConfig.for_model(**config)
        transformers.AutoModelForTextEncoding.from_config(made).save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in ("t5", "bert")}


@pytest.mark.parametrize("name", ["t5", "bert"])
@pytest.mark.parametrize("pooling", ["agg", "first", "mean"])
def test_a_pretrained_text_encoder_is_that_encoder(pretrained: dict[str, Path], name: str, pooling: str) -> None:
    from transformers import AutoModelForTextEncoding

    source = AutoModelForTextEncoding.from_pretrained(pretrained[name]).eval()
    backbone = Backbone(
        {"text": PretrainedWords(str(pretrained[name]), length=6)},
        {"text": PretrainedText(str(pretrained[name]), pooling=pooling)},
    ).eval()
    features = backbone("text", IDS)
    mask = IDS != 0
    if pooling == "agg":
        embedded = source.get_input_embeddings()(IDS)
        embedded = torch.cat([backbone.agg["text"].expand(2, 1, -1), embedded], dim=1)
        mask = torch.cat([torch.ones(2, 1, dtype=torch.bool), mask], dim=1)
        expected = source(inputs_embeds=embedded, attention_mask=mask.long()).last_hidden_state
        assert torch.allclose(features.pooled, expected[:, 0], atol=1e-5)
        return
    expected = source(input_ids=IDS, attention_mask=mask.long()).last_hidden_state
    assert torch.allclose(features.tokens, expected, atol=1e-5)
    pooled = (
        expected[:, 0]
        if pooling == "first"
        else torch.stack([e[m].mean(0) for e, m in zip(expected, mask, strict=True)])
    )
    assert torch.allclose(features.pooled, pooled, atol=1e-5)


def whole(words: PretrainedWords, text: PretrainedText) -> VATT:
    video = VideoTokenizer(16, (2, 2, 2))
    backbone = Backbone({"video": video, "text": words}, {"video": Transformer(16, 1, 2), "text": text})
    return VATT(backbone, HierarchicalProjection(dict.fromkeys(("video", "text"), 16), 12, 8), TINY).eval()


def test_a_saved_model_asks_for_nothing_from_elsewhere(pretrained: dict[str, Path], tmp_path: Path) -> None:
    model = whole(PretrainedWords(str(pretrained["t5"]), length=6), PretrainedText(str(pretrained["t5"])))
    model.save_pretrained(tmp_path / "model")
    for file in pretrained["t5"].iterdir():
        file.unlink()
    again = VATT.from_pretrained(tmp_path / "model")
    assert torch.equal(again(text=IDS)["text_vt"], model(text=IDS)["text_vt"])
    # A word's embedding is there once, in the tokenizer.
    text = [name for name, value in again.backbone.state_dict().items() if value.shape == (12, 16)]
    assert text == ["tokenizers.text.words.weight"]


def test_a_text_encoder_is_trained_or_frozen() -> None:
    pytest.importorskip("transformers")
    for frozen in (False, True):
        model = whole(PretrainedWords(config=BERT, length=6, frozen=frozen), PretrainedText(config=BERT, frozen=frozen))
        objective = Contrastive(SMALL_HEAD, video_audio_weight=0.0)
        objective.build(model.backbone)
        batch = {k: v for k, v in tiny_batch(4).items() if not k.startswith("audio")}
        objective(model.backbone, batch)["video_text"].backward()
        moved = [
            p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.backbone.encoder("text").parameters()
        ]
        assert not any(moved) if frozen else sum(moved) > 10


def test_settings_that_contradict_each_other_are_refused() -> None:
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="either pretrained"):
        PretrainedText()
    with pytest.raises(InputError, match="model_type"):
        PretrainedText(config={"vocab_size": 3})
    with pytest.raises(ValueError, match="agg, first or mean, not 'last'"):
        PretrainedText(config=T5, pooling="last")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="causal"):
        PretrainedText(config=T5)(torch.zeros(1, 2, 16), causal=True)
    with pytest.raises(ValueError, match="L up to 6"):
        PretrainedWords(config=T5, length=6)(torch.zeros(1, 7, dtype=torch.int64))
