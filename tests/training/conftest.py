from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import tiny_model
from vatt.datasets.manifest import read_manifest
from vatt.datasets.text.vocabularies import make_vocabulary
from vatt.preparation.synthetic import Plan, synthesize


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten training clips and four to validate on, with a vocabulary of nine ids and the unknown word."""
    folder = tmp_path_factory.mktemp("corpus")
    manifest = synthesize(folder, Plan(clips_per_combination=1, num_test=2, num_val=4, num_train=10), num_workers=2)
    texts = [text.text for clip in read_manifest(manifest) for text in clip.texts]
    make_vocabulary(texts, folder / "vocabulary", "words", size=11)
    return folder


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights."""
    folder = tmp_path_factory.mktemp("pretrained")
    torch.manual_seed(0)
    tiny_model().save_pretrained(folder)
    return folder
