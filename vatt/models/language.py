"""Other text encoders: the linear one of the released code, and pretrained ones of Hugging Face.

This file alone imports transformers in this room.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

from torch import Tensor, nn

from vatt.errors import InputError
from vatt.models.part import Part
from vatt.models.tokenizers import WordTokenizer
from vatt.models.transformer import Encoder
from vatt.structures import Patches

Pooling = Literal["agg", "first", "mean"]


class LinearText(Encoder):
    """One linear layer and a ReLU for every word, and the largest value over the words.

    The language model of MIL-NCE (Miech et al. 2020) in the released code; it has no AGG token.

    Args:
        width: D of the words.
        out_width: of the features.
        count_padding: padding takes part in the maximum, as in the released code.
    """

    agg = False

    def __init__(self, width: int = 300, out_width: int = 2048, count_padding: bool = False) -> None:
        super().__init__()
        self.width, self.out_width, self.count_padding = width, out_width, count_padding
        self.linear = nn.Linear(width, out_width)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        layers: bool = False,
        position: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, L, D) to (B, L, out_width); words do not see each other."""
        x = self.linear(x).relu()
        return x, (x,) if layers else ()

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if valid is not None and not self.count_padding:
            x = x.masked_fill(~valid.unsqueeze(-1), 0.0)  # nothing is below 0 after a ReLU
        return x.amax(dim=1)


class PretrainedPart(Part):
    """What the word embeddings and the encoder of a Hugging Face model have in common.

    Args:
        pretrained: name on the Hub, or folder, of the model whose weights are loaded now. A saved VATT holds the
            weights itself and keeps ``config`` instead.
        config: configuration of the model, as a dict with its ``model_type``; weights are random then.
    """

    def _load(self, pretrained: str | None, config: dict[str, Any] | None) -> nn.Module:
        try:
            from transformers import AutoConfig, AutoModelForTextEncoding
        except ImportError as error:
            raise ImportError(
                'Hugging Face text encoders need transformers: pip install "vatt[transformers]"'
            ) from error
        if (pretrained is None) == (config is None):
            raise ValueError("give either pretrained (a name or a folder) or config (a dict with model_type)")
        if pretrained is not None:
            model = AutoModelForTextEncoding.from_pretrained(pretrained)
        else:
            settings = copy.deepcopy(config)
            if "model_type" not in settings:
                raise InputError("the config of a Hugging Face model must have its model_type")
            model = AutoModelForTextEncoding.from_config(AutoConfig.for_model(**settings), trust_remote_code=False)
        # What is saved is the configuration: loading a saved model asks for nothing from elsewhere.
        self.init_args = {**self.init_args, "pretrained": None, "config": model.config.to_dict()}
        return model


class PretrainedWords(PretrainedPart, WordTokenizer):
    """The word embeddings of a Hugging Face text encoder; positions are the encoder's own affair.

    Args:
        pretrained, config: see `PretrainedPart`; the same as of the `PretrainedText` it belongs to.
        length: most tokens of a text, L.
        pad_id: of padding; the model's own unless given.
        frozen: embeddings are not trained.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        length: int = 16,
        pad_id: int | None = None,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        model = self._load(pretrained, config)
        self.words = model.get_input_embeddings().requires_grad_(not frozen)
        self.width, self.length, self.grid = self.words.embedding_dim, length, (length,)
        self.pad_id = model.config.pad_token_id if pad_id is None else pad_id
        if self.pad_id is None:
            raise InputError(f"{type(model).__name__} has no padding token: set pad_id")

    def embed(self, patches: Patches) -> Tensor:
        return self.words(patches.x.squeeze(-1))


class PretrainedText(PretrainedPart, Encoder):
    """A Hugging Face text encoder (T5, BERT, RoBERTa, DistilBERT, …) as the text tower.

    Args:
        pretrained, config: see `PretrainedPart`; the same as of the `PretrainedWords` it belongs to.
        pooling: "agg" puts our AGG token in front, "first" takes the first word's feature (BERT's CLS, if the
            vocabulary writes one), "mean" the mean over the words.
        frozen: its weights are not trained.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        config: dict[str, Any] | None = None,
        pooling: Pooling = "mean",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if pooling not in ("agg", "first", "mean"):
            raise ValueError(f"pooling must be agg, first or mean, not {pooling!r}")
        self.model = self._load(pretrained, config)
        words = self.model.get_input_embeddings()
        self.width, self.out_width = words.embedding_dim, self.model.config.hidden_size
        # They are the tokenizer's now; some models hold them under several names.
        for module in list(self.model.modules()):
            for name, child in list(module.named_children()):
                if getattr(child, "weight", None) is words.weight:
                    setattr(module, name, _NoWords())
        self.pooling, self.agg = pooling, pooling == "agg"
        if frozen:
            self.model.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None = None,
        causal: bool = False,
        layers: bool = False,
        position: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """(B, L, D) word embeddings to features.

        Raises:
            ValueError: ``causal``; what these encoders see is their own.
        """
        if causal:
            raise ValueError("a Hugging Face text encoder is not made causal")
        # Some models look at the values, which "meta" has none of.
        seen = None if valid is None or x.device.type == "meta" else valid.long()
        out = self.model(inputs_embeds=x, attention_mask=seen, output_hidden_states=layers)
        return out.last_hidden_state, tuple(out.hidden_states[1:]) if layers else ()

    def pool(self, x: Tensor, valid: Tensor | None = None) -> Tensor:
        if self.pooling == "first":
            return x[:, 0]
        if valid is None:
            return x.mean(dim=1)
        weight = valid.unsqueeze(-1).to(x.dtype)
        return (x * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class _NoWords(nn.Module):
    """Stands where a model's word embeddings were, which are the tokenizer's now."""
