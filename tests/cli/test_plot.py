"""vatt plot, as it is typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vatt.cli.main import main
from vatt.cli.plot import _titles
from vatt.errors import InputError
from vatt.preparation.scenes import ScenePlan, write_scenes


@pytest.fixture
def manifest(tmp_path: Path, video_file: Path) -> Path:
    texts = ("a red ring", "a blue bar", "a green ring", "a red bar")
    rows = [
        {"id": f"clip{i}", "path": str(video_file), "start_s": i / 8, "text": texts[i % 4], "x_kind": "ab"[i % 2]}
        for i in range(8)
    ]
    path = tmp_path / "clips.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_pictures_of_embeddings_and_of_a_model(manifest: Path, model_folder: Path, tmp_path: Path) -> None:
    embeddings = str(tmp_path / "embeddings")
    given = ["--model", str(model_folder), "--output", embeddings, "--windows", "1", "--num_workers", "0"]
    assert main(["embed", str(manifest), *given]) == 0
    tsne = ["plot", "tsne", embeddings, "--labels", str(manifest), "--column", "x_kind"]
    assert main([*tsne, "--output", str(tmp_path / "tsne")]) == 0
    assert f"{manifest}, coloured by x_kind" in (tmp_path / "tsne.svg").read_text()
    assert main(["plot", "similarities", embeddings, "--output", str(tmp_path / "sim.png")]) == 0
    nodes = ["plot", "activations", str(model_folder), str(manifest), "--output", str(tmp_path / "nodes.png")]
    assert main([*nodes, "--clips", "4"]) == 0
    # A name that ends in something else than the suffix of a picture is kept.
    assert main([*nodes[:-1], str(tmp_path / "v1.2")]) == 0
    assert "video, 8 clips" in (tmp_path / "v1.2.svg").read_text()
    assert f"on {manifest}" in (tmp_path / "v1.2.svg").read_text()
    for name in ("tsne.png", "sim.png", "nodes.png"):
        assert Image.open(tmp_path / name).size[0] > 500


def test_activations_without_words_are_those_of_the_others(
    manifest: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "wordless"
    shutil.copytree(model_folder, model)
    shutil.rmtree(model / "vocabulary")
    rows = [*manifest.read_text().splitlines(), json.dumps({"path": str(manifest), "id": "bad", "text": "a ring"})]
    manifest.write_text("\n".join(rows))
    given = ["plot", "activations", str(model), str(manifest), "--output", str(tmp_path / "nodes.svg")]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "text is left out" in printed
    assert "unreadable: " in printed
    said = (tmp_path / "nodes.svg").read_text()
    assert "video, 8 clips" in said


def test_scenes_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_scenes(tmp_path, ScenePlan(2, 1), num_workers=1)
    given = [
        "plot",
        "scenes",
        str(manifest),
        "--about",
        "scenes",
    ]  # the default title is the path, which contains a name
    assert main([*given, "--clips", "2", "--output", str(tmp_path / "scenes.svg")]) == 0
    drawn = (tmp_path / "scenes.svg").read_text()
    assert "train-0" in drawn
    assert "train-1" in drawn
    assert "test-0" not in drawn
    assert main(["plot", "scenes", str(manifest), "--split", "val", "--output", str(tmp_path / "x.svg")]) == 2
    assert "no row has split 'val'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tnse", "X"], "no picture 'tnse'; did you mean 'tsne'"),
        (["tsne", "X"], "--labels"),
        (["curves", "X", "Y"], "one source, not of 2"),
        (["activations", "X"], "activations MODEL MANIFEST"),
        (["droptoken", "CLIPS"], "not a table of vatt droptoken"),
        (["tsne", "X", "--labels", "CLIPS", "--column", "kind"], "no row has a kind; there may be label, x_kind"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    arguments: list[str], message: str, manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(manifest) if word == "CLIPS" else word for word in arguments]
    assert main(["plot", *given, "--output", str(tmp_path / "x.png")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sources", "titles"),
    [
        (["runs/a/embeddings", "runs/b/embeddings"], ["a", "b"]),
        (["runs/a/embeddings"], ["a"]),
        (["embeddings"], ["embeddings"]),
        (["x/a/one", "y/a/two"], ["one", "two"]),
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]),
        (["a", "b/a"], ["a", "b/a"]),
    ],
)
def test_titles_say_in_what_folders_differ(sources: list[str], titles: list[str]) -> None:
    assert list(_titles(sources)) == titles
    assert list(_titles(sources).values()) == sources
    with pytest.raises(InputError, match="twice"):
        _titles([*sources, sources[0]])
