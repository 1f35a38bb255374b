"""What an official checkpoint is made of: architecture and clip format, inferred from paths and shapes."""

from __future__ import annotations

import re
from dataclasses import replace

from vatt.errors import InputError
from vatt.hub.official.rules import HEAD, PATCHES, TOWER, UNIFIED, Array
from vatt.hub.official.weights import Loaded, load
from vatt.models.backbone import Backbone
from vatt.models.heads import HierarchicalProjection, JointProjection, LinearClassifier, Projection
from vatt.models.language import LinearText
from vatt.models.spectrogram import SpectrogramTokenizer
from vatt.models.tokenizers import AudioTokenizer, TextTokenizer, Tokenizer, VideoTokenizer
from vatt.models.transformer import Encoder, Transformer
from vatt.models.vatt import VATT, Classifier
from vatt.structures import MODALITIES, ClipFormat

HEAD_WIDTH, RELEASED = 64, (512, 768, 1024, 1536)  # of the released sizes; no variable says how wide heads are
DROPOUT = 0.1
WORDS = 16
T5_FIRST = "_base_layer/txt_backbone/base_lm/layers/0/self_attention/attention"
Shapes = dict[str, tuple[int, ...]]


def make_model(shapes: Shapes, head_width: int | None = None, num_words: int | None = None) -> VATT | Classifier:
    """A model of the architecture of a checkpoint, with random weights.

    Args:
        shapes: of the variables, by official path.
        head_width: of the attention's heads. Unless given: 64 in towers of the released widths, and in others what the
            table of a T5-style text tower says of it.
        num_words: L, where the text tower has no positions that say it; 16 unless given.

    Raises:
        InputError: not an official architecture.
    """
    for name, value in (("head_width", head_width), ("num_words", num_words)):
        if value is not None and value < 1:
            raise InputError(f"{name} must be at least 1, not {value}")
    if any(path.startswith(f"{UNIFIED}/") for path in shapes):
        return _agnostic(shapes, head_width, num_words)
    if any(path.startswith("_base/") for path in shapes):
        return _classifier(shapes, head_width)
    found = [m for m in MODALITIES if any(path.startswith(f"_base_layer/{TOWER[m]}_backbone/") for path in shapes)]
    if not found:
        raise InputError(
            "neither a modality-specific, nor a modality-agnostic, nor a fine-tuned official checkpoint: its variables "
            f"begin with {', '.join(sorted({path.split('/')[0] for path in shapes})[:5])}"
        )
    missing = [m for m in MODALITIES if m not in found]
    if missing:
        raise InputError(f"the checkpoint has no {missing[0]} tower")
    towers = {m: _tower(shapes, m, f"_base_layer/{TOWER[m]}_backbone/_base", head_width) for m in ("video", "audio")}
    towers["text"] = _text(shapes, "_base_layer/txt_backbone", head_width, num_words)
    backbone = Backbone({m: t for m, (t, _) in towers.items()}, {m: e for m, (_, e) in towers.items()})
    return VATT(backbone, _projection(shapes, backbone), _format(backbone))


def _agnostic(shapes: Shapes, head_width: int | None, num_words: int | None) -> VATT:
    for modality in MODALITIES:
        _need(shapes, f"{UNIFIED}/pre_proj/{modality}/kernel")
        _need(shapes, f"{UNIFIED}/post_proj/{modality}/kernel")
    tokenizers: dict[str, Tokenizer] = {
        modality: _patches(
            shapes, f"{UNIFIED}/raw_to_embeddings/{modality}", f"{UNIFIED}/pos_embedding_lookup/{modality}", pre=True
        )
        for modality in ("video", "audio")
    }
    size, embedding_width = _need(shapes, f"{UNIFIED}/raw_to_embeddings/text/embeddings")
    length, width = _need(shapes, f"{UNIFIED}/pos_embedding_lookup/text/temporal_position_embeddings/embeddings")
    _same_length(num_words, length)
    tokenizers["text"] = TextTokenizer(
        width, size, length, dropout=DROPOUT, embedding_width=embedding_width, frozen=True
    )
    _, post_width = shapes[f"{UNIFIED}/post_proj/video/kernel"]
    backbone = Backbone(tokenizers, _transformer(shapes, f"{UNIFIED}/tx", head_width), post_width)
    return VATT(backbone, _projection(shapes, backbone), _format(backbone))


def _classifier(shapes: Shapes, head_width: int | None) -> Classifier:
    video = f"_base/{PATCHES['video']}/kernel" in shapes
    modality = "video" if video else "audio"
    pre, post = (shapes.get(f"_base/{name}/kernel") for name in ("pre_proj", "post_proj"))
    if (pre is None) != (post is None):
        raise InputError(f"the checkpoint has no _base/{'pre_proj' if pre is None else 'post_proj'}/kernel")
    tokenizer, encoder = _tower(shapes, modality, "_base", head_width)
    backbone = Backbone({modality: tokenizer}, {modality: encoder}, None if post is None else post[1])
    width, classes = _need(shapes, "_ops/cls/kernel")
    if width != backbone.width(modality):
        raise InputError(f"_ops/cls/kernel takes features {width} wide, and the tower's are {backbone.width(modality)}")
    head = LinearClassifier(width, classes, dropout=0.5 if video else 0.0, multi_label=not video)
    # Video: frames at a stride of 2 of 25 fps. Audio: twice as long at half the rate (appendix A.2.5 and A.3).
    return Classifier(backbone, head, _format(backbone, fps=12.5 if video else 10.0, num_frames=None if video else 64))


def _tower(shapes: Shapes, modality: str, there: str, head_width: int | None) -> tuple[Tokenizer, Encoder]:
    names = [name for name in PATCHES.values() if f"{there}/{name}/kernel" in shapes]
    if len(names) != 1:
        raise InputError(f"{modality}: {there} has none of the layers {', '.join(PATCHES.values())}")
    pre = f"{there}/pre_proj/kernel" in shapes
    tokenizer = _patches(shapes, f"{there}/{names[0]}", f"{there}/pos_embedding_lookup", pre)
    return tokenizer, _transformer(shapes, f"{there}/tx", head_width)


def _patches(shapes: Shapes, layer: str, positions: str, pre: bool) -> Tokenizer:
    *patch, _, width = kernel = _need(shapes, f"{layer}/kernel", rank=None)

    def size(axis: str) -> int:
        return _need(shapes, f"{positions}/{axis}_position_embeddings/embeddings")[0]

    options = {"dropout": DROPOUT, "pre_projection": pre}
    if len(kernel) not in (3, 4, 5):
        raise InputError(f"{layer}/kernel has the shape {kernel}, which is no convolution's")
    if len(kernel) == 5:
        return VideoTokenizer(width, (size("temporal"), size("vertical"), size("horizontal")), tuple(patch), **options)
    if len(kernel) == 3:
        return AudioTokenizer(width, size("temporal"), patch[0], **options)
    grid = size("temporal"), size("spectoral")
    # The weights were trained with the released code's order of places.
    return SpectrogramTokenizer(width, grid, tuple(patch), num_mels=grid[1] * patch[1], official_order=True, **options)


def _text(shapes: Shapes, there: str, head_width: int | None, num_words: int | None) -> tuple[Tokenizer, Encoder]:
    length = WORDS if num_words is None else num_words
    size, embedding_width = _need(shapes, f"{there}/embedding/embeddings")
    if f"{there}/base_lm/conv1d/kernel" in shapes:
        _, _, width = _need(shapes, f"{there}/base_lm/conv1d/kernel", rank=3)
        tokenizer = TextTokenizer(embedding_width, size, length, positions=False, frozen=True)
        return tokenizer, LinearText(embedding_width, width, count_padding=True)
    _, width = _need(shapes, f"{there}/pre_proj/kernel")
    options = {"dropout": DROPOUT, "embedding_width": embedding_width, "projection_bias": False, "frozen": True}
    relative = shapes.get(f"{there}/base_lm/layers/0/self_attention/attention/relative_attention_bias/embeddings")
    if relative is not None:
        buckets, heads = relative
        tokenizer = TextTokenizer(width, size, length, positions=False, agg_in_embedding=True, **options)
        layer = f"{there}/base_lm/layers/0"
        encoder = Transformer(
            width,
            _depth(shapes, f"{there}/base_lm"),
            heads,
            _need(shapes, f"{layer}/feed_forward/mlp/wi/kernel")[1],
            DROPOUT,
            _need(shapes, f"{layer}/self_attention/attention/q/kernel")[1] // heads,
            bias=False,
            scaled=False,
            norm="mixed",
            relative=(buckets, 64),
        )
        return tokenizer, encoder
    if f"{there}/agg_embedding" in shapes:
        raise InputError(
            "the text tower has two AGG tokens (the released bert_small, whose configuration contradicts itself): "
            "it is not supported"
        )
    table = f"{there}/base_lm/pos_embedding_lookup/temporal_position_embeddings/embeddings"
    places, _ = _need(shapes, table)
    _same_length(num_words, places)
    tokenizer = TextTokenizer(width, size, places, **options)
    return tokenizer, _transformer(shapes, f"{there}/base_lm/tx", head_width)


def _transformer(shapes: Shapes, there: str, head_width: int | None) -> Transformer:
    width, inner = _need(shapes, f"{there}/layers/0/mha/q/kernel")
    if head_width is None:
        head_width = HEAD_WIDTH if width in RELEASED else _head_width_of_t5(shapes)
    if head_width is None:
        raise InputError(
            f"{there} is {width} wide, which no released model is, and no variable says how wide its heads are: "
            "set head_width"
        )
    if inner % head_width:
        raise InputError(f"{there}: queries of {inner} values do not divide into heads of {head_width}: set head_width")
    if f"{there}/final_layer_norm/gamma" not in shapes:
        raise InputError(f"{there} has no final_layer_norm: a post-norm transformer is not supported")
    return Transformer(
        width,
        _depth(shapes, there),
        inner // head_width,
        _need(shapes, f"{there}/layers/0/feed_forward/mlp/wi/kernel")[1],
        DROPOUT,
        head_width,
        bias=f"{there}/layers/0/mha/q/bias" in shapes,
    )


def _projection(shapes: Shapes, backbone: Backbone) -> Projection:
    widths = {modality: backbone.width(modality) for modality in backbone.modalities}
    if f"{HEAD}/vid_to_vat/dense/kernel" in shapes:
        return JointProjection(widths, shapes[f"{HEAD}/vid_to_vat/dense/kernel"][1])
    return HierarchicalProjection(
        widths,
        _need(shapes, f"{HEAD}/vid_to_hid/kernel")[1],
        _need(shapes, f"{HEAD}/va_to_vat/dense/kernel")[1],
    )


def _format(backbone: Backbone, fps: float = 10.0, num_frames: int | None = None) -> ClipFormat:
    """How clips are read so that they fill the position tables."""
    format = ClipFormat(fps=fps, num_frames=num_frames or ClipFormat.num_frames)
    if "video" in backbone.modalities:
        video = backbone.tokenizers["video"]
        sizes = [places * pixels for places, pixels in zip(video.grid, video.patch, strict=True)]
        if sizes[1] != sizes[2]:
            raise InputError(f"pictures of {sizes[1]} x {sizes[2]} are not square")
        format = replace(format, num_frames=sizes[0], size=sizes[1])
    audio = backbone.tokenizers["audio"] if "audio" in backbone.modalities else None
    if isinstance(audio, AudioTokenizer):
        format = replace(format, sample_rate=round(audio.length * audio.segment / format.duration_s))
    elif isinstance(audio, SpectrogramTokenizer):
        # Whole patches leave some frames over, 6 of 150 in the released size.
        released = (audio.grid, audio.patch, audio.hop) == ((9, 16), (16, 5), 1024)
        samples = 153_600 if released else audio.grid[0] * audio.patch[0] * audio.hop
        format = replace(format, sample_rate=round(samples / format.duration_s))
    if "text" in backbone.modalities:
        format = replace(format, num_words=backbone.tokenizers["text"].length)
    return format


def _same_length(given: int | None, places: int) -> None:
    if given not in (None, places):
        raise InputError(f"the model's texts have {places} words, as its positions say: leave num_words out")


def _head_width_of_t5(shapes: Shapes) -> int | None:
    table, queries = shapes.get(f"{T5_FIRST}/relative_attention_bias/embeddings"), shapes.get(f"{T5_FIRST}/q/kernel")
    return None if table is None or queries is None else queries[1] // table[1]


def _depth(shapes: Shapes, there: str) -> int:
    numbers = re.compile(re.escape(there) + r"/layers/(\d+)/")
    return 1 + max(int(found[1]) for found in map(numbers.match, shapes) if found)


def _need(shapes: Shapes, path: str, rank: int | None = 2) -> tuple[int, ...]:
    """The shape of a variable that must be there, with as many axes as it must have."""
    if path not in shapes:
        raise InputError(f"the checkpoint has no {path}")
    if rank not in (None, len(shapes[path])):
        raise InputError(f"{path} has the shape {shapes[path]}, not {rank} axes")
    return shapes[path]


def convert(
    variables: dict[str, Array], head_width: int | None = None, num_words: int | None = None
) -> tuple[VATT | Classifier, Loaded]:
    """An official checkpoint as a model in evaluation mode, every weight filled.

    Args:
        variables: see `vatt.hub.official.files.read_variables`.
        head_width, num_words: see `make_model`.

    Raises:
        InputError: not an official architecture, or variables that are missing, unknown or of another shape.
    """
    model = make_model({path: value.shape for path, value in variables.items()}, head_width, num_words)
    return model.eval(), load(model, variables)
