"""Replacing a saved model: the old or the new model is loaded, with its own vocabulary and files, never a mixture."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

pytest.importorskip("faiss")
from benchmarks.killing import killed_at
from tests.conftest import WORDS, tiny_model
from vatt.datasets.text.vocabularies import WordVocabulary, load_vocabulary
from vatt.errors import InputError, WriteError
from vatt.models.encoding import model_vocabulary
from vatt.models.vatt import VATT, load_model
from vatt.training.history import history_of


def save(folder: Path, words: Sequence[str], seed: int) -> VATT:
    """Save a tiny model with random weights, its vocabulary, and an extra file that holds the hash of the model."""
    torch.manual_seed(seed)
    model = tiny_model()
    files = {"training.json": lambda path: path.write_text(json.dumps({"model": model.model_hash()}))}
    model.save_pretrained(folder, vocabulary=WordVocabulary(words), extra_files=files)
    return model


def loaded(folder: Path) -> tuple[str, list[str], str]:
    """Return hash, vocabulary and extra file of the model in a directory."""
    model = VATT.from_pretrained(folder)
    extra = json.loads((model.folder / "training.json").read_text())
    assert history_of(folder) == extra
    return model.model_hash(), list(model_vocabulary(model).words), extra["model"]


OLD, NEW = WORDS, WORDS[::-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize("with_hash", [True, False])
def test_killed_save_leaves_the_old_or_the_new_model(tmp_path: Path, with_hash: bool) -> None:
    folder, states = tmp_path / "saved", []
    old, new = save(tmp_path / "old", OLD, 1), save(tmp_path / "new", NEW, 2)
    if not with_hash:  # models that were saved without hashes
        config = json.loads((tmp_path / "old" / "config.json").read_text())
        del config["weights_sha256"], config["vocabulary_hash"]
        (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    before, after = ((m.model_hash(), list(words), m.model_hash()) for m, words in ((old, OLD), (new, NEW)))
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)
        if not killed_at(number, folder, lambda: save(folder, NEW, 2)):
            break
        states.append(loaded(folder))
        load_vocabulary(folder / "vocabulary")
        VATT.from_pretrained(folder).save_pretrained(folder)  # finishes the replacement
        assert loaded(folder) == states[-1]
        assert not (folder / ".pending").exists()
    changed = states.index(after)
    assert 0 < changed < len(states) - 1
    assert states == [before] * changed + [after] * (len(states) - changed)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_killed_first_save_leaves_no_model_or_a_complete_one(tmp_path: Path) -> None:
    folder, is_complete = tmp_path / "saved", []
    for number in itertools.count():
        shutil.rmtree(folder, ignore_errors=True)
        if not killed_at(number, folder, lambda: save(folder, NEW, 2)):
            break
        if (folder / "config.json").exists():  # for programs that read the files without this package
            assert {"model.safetensors", "README.md", "training.json"} <= set(os.listdir(folder))
            load_vocabulary(folder / "vocabulary")
        try:
            loaded(folder)
            is_complete.append(True)
        except FileNotFoundError:
            is_complete.append(False)
    assert is_complete == sorted(is_complete)
    assert set(is_complete) == {True, False}


@pytest.mark.parametrize("name", ["vocabulary.json", "training.json", "model.safetensors", "config.json", "README.md"])
def test_full_disk_leaves_the_old_model(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when this file is written."""
    save(tmp_path / "model", OLD, 1)
    before, replace = loaded(tmp_path / "model"), os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    for folder in ("model", "first"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full)
            with pytest.raises(WriteError, match=rf"cannot write {tmp_path}/{folder}/(vocabulary/)?{name}: No space"):
                save(tmp_path / folder, NEW, 2)
        assert not list((tmp_path / folder).glob(".*"))
    assert loaded(tmp_path / "model") == before
    assert not (tmp_path / "first" / "config.json").exists()


def test_model_with_a_missing_or_wrong_vocabulary_is_refused(model_folder: Path) -> None:
    VATT.from_pretrained(model_folder).save_pretrained(model_folder)  # records the hash of the vocabulary
    words = load_vocabulary(model_folder / "vocabulary")
    assert json.loads((model_folder / "config.json").read_text())["vocabulary_hash"] == words.hash
    assert VATT.from_pretrained(model_folder).vocabulary_hash == words.hash
    WordVocabulary(NEW).save(model_folder / "vocabulary")
    for load in (VATT.from_pretrained, load_model):
        with pytest.raises(InputError, match="is not the vocabulary that the model was trained with"):
            load(model_folder)
    (model_folder / "vocabulary" / "vocabulary.json").unlink()
    with pytest.raises(InputError, match=r"vocabulary is missing or incomplete.*Copy that vocabulary back"):
        VATT.from_pretrained(model_folder)
    words.save(model_folder / "vocabulary")
    VATT.from_pretrained(model_folder)


def test_a_model_is_not_saved_without_its_vocabulary(model_folder: Path, tmp_path: Path) -> None:
    VATT.from_pretrained(model_folder).save_pretrained(model_folder)
    model = VATT.from_pretrained(model_folder)
    shutil.rmtree(model_folder / "vocabulary")
    with pytest.raises(InputError, match="vocabulary is missing or incomplete"):
        model.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "config.json").exists()


def test_a_model_can_be_loaded_and_saved_while_others_save_it(model_folder: Path) -> None:
    models = [tiny_model() for _ in range(2)]
    for value in models[1].state_dict().values():
        value.add_(1)
    expected = {model.model_hash() for model in models}
    models[0].save_pretrained(model_folder)
    with ThreadPoolExecutor(3) as pool:
        savers = [
            pool.submit(lambda m: [m.save_pretrained(model_folder) for _ in range(20)], model) for model in models
        ]
        loaded = []
        while not all(saver.done() for saver in savers):
            loaded.append(VATT.from_pretrained(model_folder).model_hash())
    assert [saver.result() for saver in savers] == [[None] * 20] * 2
    assert set(loaded) <= expected
    assert not list(model_folder.glob(".*"))


def test_saving_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    save(tmp_path / "model", OLD, 1)
    monkeypatch.setattr(os, "link", link)
    new = save(tmp_path / "model", NEW, 2)
    assert loaded(tmp_path / "model") == (new.model_hash(), list(NEW), new.model_hash())
    assert not list((tmp_path / "model").glob(".*"))


def test_old_leftovers_of_killed_processes_are_deleted(model_folder: Path) -> None:
    left, fresh = (model_folder / f".model.{name}.part.safetensors" for name in ("old", "new"))
    inner = model_folder / ".0123.part" / "model.safetensors"
    inner.parent.mkdir()
    for path in (left, fresh, inner):
        path.write_bytes(b"half")
    for path in (left, inner, inner.parent):
        os.utime(path, (time.time() - 7200,) * 2)
    VATT.from_pretrained(model_folder).save_pretrained(model_folder)
    assert not left.exists()
    assert not inner.parent.exists()
    assert fresh.exists()  # another process may still be writing it


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_directory_is_reported(model_folder: Path) -> None:
    model = VATT.from_pretrained(model_folder)
    model_folder.chmod(0o500)
    with pytest.raises((WriteError, PermissionError), match=str(model_folder)):
        model.save_pretrained(model_folder)
    assert VATT.from_pretrained(model_folder).model_hash() == model.model_hash()
