"""Saving over a model: the old one, the new one, or a word that it was interrupted; never a mixture."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("faiss")
from benchmarks.killing import killed_at
from tests.conftest import tiny_model
from vatt.datasets.text import load_vocabulary
from vatt.errors import InputError
from vatt.io import WriteError
from vatt.models.vatt import VATT


def loaded(folder: Path) -> str:
    """What is loaded from a folder: a fingerprint, or the word that says why nothing is."""
    try:
        return VATT.from_pretrained(folder).fingerprint()
    except InputError as error:
        return "interrupted" if "was saving interrupted?" in str(error) else str(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_save_that_is_killed_leaves_a_model_or_says_so(model_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    old, new = VATT.from_pretrained(model_folder), tiny_model()
    folder, states = tmp_path / "saved", []
    new.folder = old.folder  # so that the vocabulary goes along
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        old.save_pretrained(folder)
        if not killed_at(number, folder, lambda: new.save_pretrained(folder)):
            break
        states.append(loaded(folder))
        load_vocabulary(folder / "vocabulary")
        new.save_pretrained(folder)
        assert loaded(folder) == new.fingerprint()
    changed = states.index("interrupted")
    assert states.count("interrupted") == 1  # between the two renames
    assert states[:changed] == [old.fingerprint()] * changed
    assert states[changed + 1 :] == [new.fingerprint()] * (len(states) - changed - 1)
    assert 0 < changed < len(states) - 1


def test_leftovers_of_killed_processes_go_after_a_while(model_folder: Path) -> None:
    left, fresh = (model_folder / f".model.{name}.part.safetensors" for name in ("old", "new"))
    for path in (left, fresh):
        path.write_bytes(b"half")
    os.utime(left, (time.time() - 7200,) * 2)
    VATT.from_pretrained(model_folder).save_pretrained(model_folder)
    assert not left.exists()
    assert fresh.exists()  # somebody may still be writing it


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written_to_is_named(model_folder: Path) -> None:
    model = VATT.from_pretrained(model_folder)
    model_folder.chmod(0o500)
    with pytest.raises((WriteError, PermissionError), match=str(model_folder)):
        model.save_pretrained(model_folder)
    assert loaded(model_folder) == model.fingerprint()
