"""VATT: multimodal contrastive pretraining on raw video, audio and text.

Akbari et al., "VATT: Transformers for Multimodal Self-Supervised Learning from Raw Video, Audio and Text",
NeurIPS 2021. The names below are imported when they are first used, so that ``vatt --help`` answers at once.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_WHERE = {
    "Batch": "vatt.structures",
    "Clip": "vatt.structures",
    "ClipFormat": "vatt.structures",
    "Features": "vatt.structures",
    "Tokens": "vatt.structures",
    "Patches": "vatt.structures",
    "AudioTokenizer": "vatt.models.tokenizers",
    "SpectrogramTokenizer": "vatt.models.spectrogram",
    "TextTokenizer": "vatt.models.tokenizers",
    "VideoTokenizer": "vatt.models.tokenizers",
    "Transformer": "vatt.models.transformer",
    "Backbone": "vatt.models.backbone",
    "LinearText": "vatt.models.language",
    "PretrainedText": "vatt.models.language",
    "PretrainedWords": "vatt.models.language",
    "HierarchicalProjection": "vatt.models.heads",
    "JointProjection": "vatt.models.heads",
    "LinearClassifier": "vatt.models.heads",
    "VATT": "vatt.models.vatt",
    "Classifier": "vatt.models.vatt",
    "Contrastive": "vatt.objectives.contrastive",
    "mil_nce": "vatt.objectives.losses",
    "nce": "vatt.objectives.losses",
    "read_manifest": "vatt.datasets.manifest",
    "open_media": "vatt.media.decoding",
    "load_vocabulary": "vatt.datasets.text.vocabularies",
    "embed": "vatt.retrieval.embeddings",
    "Index": "vatt.retrieval.index",
    "search": "vatt.retrieval.search",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'vatt' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return __all__
