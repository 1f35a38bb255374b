"""The commands on small input: what they print, what they write and their exit status."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vatt.cli.commands import print_table
from vatt.cli.main import main
from vatt.datasets.text.vocabularies import load_vocabulary
from vatt.models.vatt import VATT


@pytest.fixture
def media(tmp_path: Path, video_file: Path, silent_file: Path, sound_file: Path) -> Path:
    """A folder as people have them: three readable files, one broken, one that is no media."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(video_file, folder / "a.mp4")
    shutil.copy(silent_file, folder / "more" / "b.mp4")
    shutil.copy(sound_file, folder / "c.m4a")
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    (folder / "notes.txt").write_text("no media")
    return folder


def test_a_folder_is_embedded_indexed_and_searched(
    media: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embeddings, index, sheet = (str(tmp_path / name) for name in ("embeddings", "index", "sheet.png"))
    status = main(["embed", str(media), "--model", str(model_folder), "--output", embeddings, "--num_workers", "0"])
    printed = capsys.readouterr().out
    assert status == 1
    assert f"unreadable: {media / 'broken.mp4'}: " in printed
    assert "\n1 unreadable\n" in printed
    assert "not media by their names: 1 .txt" in printed
    assert "embedded 3 of 4 clips" in printed
    assert [row["id"] for row in pq.read_table(f"{embeddings}/errors.parquet").to_pylist()] == ["broken.mp4"]

    assert main(["index", embeddings, "--output", index]) == 0
    assert "video in video_text" in capsys.readouterr().out

    assert main(["search", index, "a red ring moves left", "--k", "4", "--sheet", sheet]) == 0
    printed = capsys.readouterr().out
    assert "a.mp4" in printed
    assert "b.mp4" in printed
    assert "c.m4a" not in printed  # has no picture
    assert min(Image.open(sheet).size) > 100

    assert main(["search", index, "a red ring moves left", "--k", "4", "--format", "json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2]  # the windows of a.mp4 are one span
    windows = ["search", index, "a red ring moves left", "--k", "4", "--format", "json", "--spans", "false"]
    assert main(windows) == 0
    hits = json.loads(capsys.readouterr().out)
    assert [hit["rank"] for hit in hits] == [1, 2, 3, 4]  # three windows of a.mp4, one of b.mp4
    assert sorted({Path(hit["path"]).name for hit in hits}) == ["a.mp4", "b.mp4"]
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)


def test_an_index_is_added_to_and_left_out_of(
    media: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index, both = str(tmp_path / "index"), str(tmp_path / "both")
    for name in ("a.mp4", "more/b.mp4"):
        output = str(tmp_path / Path(name).stem)
        assert main(["embed", str(media / name), "--model", str(model_folder), "--output", output]) == 0
    assert main(["index", str(tmp_path / "a"), "--output", index]) == 0
    assert main(["index", index, str(tmp_path / "b"), "--output", both, "--kind", "hnsw"]) == 0
    assert "4 video in video_text (hnsw)" in capsys.readouterr().out
    assert main(["index", str(tmp_path / "b"), "--output", index, "--add", "true"]) == 0
    printed = capsys.readouterr().out
    assert "added 2 vectors" in printed
    assert "4 video in video_text (flat)" in printed
    assert main(["index", index, "--output", index, "--remove", "*/a.mp4"]) == 0
    assert "removed 9 vectors" in capsys.readouterr().out
    assert main(["index", index, "--output", index, "--remove", "*/nothing.mp4"]) == 1
    printed = capsys.readouterr()
    assert "removed 0 vectors" in printed.out
    notice = (
        f"the pattern '*/nothing.mp4' of --remove matches no path or id; paths are, for example, {media}/more/b.mp4"
    )
    assert printed.err == f"vatt index: {notice}\n"
    assert main(["index", index, "--output", index, "--compact", "true"]) == 0
    assert "index: " in capsys.readouterr().out
    assert main(["search", index, "a red ring"]) == 0
    printed = capsys.readouterr().out
    assert "b.mp4" in printed
    assert "a.mp4" not in printed
    assert main(["index", index, "--output", index, "--remove", "*", "--compact", "true"]) == 0
    assert f"index: {index} (empty; model " in capsys.readouterr().out
    assert main(["index", index, "--output", index, "--remove", "*"]) == 1
    assert "matches no path or id: the index is empty" in capsys.readouterr().err
    assert main(["search", index, "a red ring", "--sheet", str(tmp_path / "sheet.png")]) == 2
    message = f"{index}: the index is empty; build it again, or add embeddings with vatt index --add true"
    assert capsys.readouterr().err == f"vatt search: error: {message}\n"
    assert main(["index", str(tmp_path / "b"), "--output", index, "--add", "true"]) == 0


def test_search_reports_missing_files_unknown_words_and_empty_filters(
    media: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index = str(tmp_path / "index")
    main(["embed", str(media), "--model", str(model_folder), "--output", str(tmp_path / "all"), "--num_workers", "0"])
    assert main(["index", str(tmp_path / "all"), "--output", index]) == 0
    assert f"media: {media}" in capsys.readouterr().out
    (media / "a.mp4").unlink()
    options = ["--sheet", str(tmp_path / "sheet.png"), "--play", str(tmp_path / "list.m3u")]
    assert main(["search", index, "a roter ring", "--k", "5", *options]) == 1
    printed = capsys.readouterr()
    assert "(missing)" in printed.out.replace("\n", "")
    assert f"playlist: {tmp_path / 'list.m3u'}\n" in printed.out
    assert "vatt search: playlist: 1 of 2 results is missing: left out\n" in printed.err
    assert f"vatt search: 1 of the 2 result files is missing: {media / 'a.mp4'}; " in printed.err
    assert "vatt search: not in the model's vocabulary: 'roter'\n" in printed.err
    assert (tmp_path / "list.m3u").read_text().count(".mp4\n") == 1
    (media / "more" / "b.mp4").write_bytes(b"this is no video" * 100)
    assert main(["search", index, "a red ring", *options]) == 1
    assert f"vatt search: contact sheet: no frames of {media / 'more' / 'b.mp4'}: plain text" in capsys.readouterr().err
    assert main(["search", index, "a red ring", "--format", "json"]) == 1
    assert [hit["missing"] for hit in json.loads(capsys.readouterr().out)].count(True) == 1
    assert main(["search", index, "a red ring", "--path", "*/nothing/*"]) == 1
    assert "the path pattern '*/nothing/*' matches none of 4 rows" in capsys.readouterr().err
    assert main(["search", index, "ein roter Kreis"]) == 2
    assert "none of the words 'ein roter Kreis' is in the model's vocabulary" in capsys.readouterr().err

    monkeypatch.setattr(VATT, "from_pretrained", lambda *_: pytest.fail("the model was loaded"))
    for option, output, message in (
        ("--sheet", "sheet.jpg", "--sheet writes a PNG file"),
        ("--play", "list.mp3", "--play writes an M3U playlist"),
        ("--sheet", f"{video_name(media)}/sheet.png", "broken.mp4 is not a directory"),
    ):
        assert main(["search", index, "a red ring", option, str(tmp_path / output)]) == 2
        assert message in capsys.readouterr().err


def video_name(media: Path) -> str:
    """Return the relative path of a file that the test uses in place of a directory."""
    return f"{media.name}/broken.mp4"


def test_file_names_are_escaped_in_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[red]a[/red]", ("file",), [("[/clips]/a\x1b[2J.mp4",)])
    printed = capsys.readouterr().out
    assert "[red]a[/red]" in printed
    assert "[/clips]/a\\x1b[2J.mp4" in printed


def test_exit_status_tells_what_came_of_it(
    media: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "out")
    assert main(["embed", str(media / "a.mp4"), "--model", str(model_folder), "--output", output]) == 0
    assert main(["embed", str(tmp_path / "nowhere"), "--model", str(model_folder), "--output", output]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert main(["embed", str(media), "--model", str(tmp_path / "no_model"), "--output", output]) == 2
    assert "no_model" in capsys.readouterr().err
    broken = ["embed", str(media / "broken.mp4"), "--model", str(model_folder), "--output", output]
    assert main(broken) == 2
    assert "has other embeddings (files differ)" in capsys.readouterr().err
    assert main([*broken, "--part", "1-2"]) == 2
    assert "one of so many, as 3/8" in capsys.readouterr().err
    assert main([*broken, "--overwrite", "true"]) == 1
    assert "embedded 0 of 1 clips" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["search", "INDEX", ""], "no word"),
        (["search", "INDEX", "a ring", "--k", "0"], "--k must lie in [1, inf), not 0"),
        (
            ["embed", "VIDEO", "--model", "MODEL", "--output", "OUT", "--hop_s", "-1"],
            "--hop_s must lie in (0, inf), not -1.0",
        ),
        (["vocabulary", "VIDEO", "--output", "OUT"], "no text"),
        (["synth", "OUT", "--num_test", "9999"], "combinations"),
        (["index", "MODEL", "--output", "OUT"], "no embeddings"),
        (["plot", "curves", "MODEL", "--output", "OUT.png"], "metrics.csv"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(
    argv: list[str],
    said: str,
    video_file: Path,
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"VIDEO": str(video_file), "MODEL": str(model_folder), "OUT": str(tmp_path / "out")}
    if "INDEX" in argv:
        main(["embed", str(video_file), "--model", str(model_folder), "--output", str(tmp_path / "embeddings")])
        main(["index", str(tmp_path / "embeddings"), "--output", str(tmp_path / "index")])
        places["INDEX"] = str(tmp_path / "index")
    capsys.readouterr()
    assert main([places.get(word, word) for word in argv]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith(f"vatt {argv[0]}: error: ")
    assert "Traceback" not in error


def test_an_index_refuses_a_query_by_another_model(
    media: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    from tests.conftest import tiny_model

    embeddings, index = str(tmp_path / "embeddings"), str(tmp_path / "index")
    main(["embed", str(media / "a.mp4"), "--model", str(model_folder), "--output", embeddings])
    main(["index", embeddings, "--output", index])
    torch.manual_seed(1)
    other = tmp_path / "other"
    tiny_model().save_pretrained(other)
    shutil.copytree(model_folder / "vocabulary", other / "vocabulary")
    capsys.readouterr()
    assert main(["search", index, "a red ring", "--model", str(other)]) == 2
    assert "model" in capsys.readouterr().err


def test_a_finished_list_of_words_becomes_a_vocabulary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("<pad>\n<unk>\nred\nring\n")
    assert main(["vocabulary", f"{tmp_path}/words.txt", "--kind", "list", "--output", f"{tmp_path}/made"]) == 0
    assert "4 ids" in capsys.readouterr().out
    assert load_vocabulary(tmp_path / "made").encode("Red car") == [2, 1]
    assert main(["vocabulary", f"{tmp_path}/gone.txt", "--kind", "list", "--output", f"{tmp_path}/made"]) == 2


def test_vocabulary_and_retrieve(
    model_folder: Path, video_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "clips.jsonl"
    rows = [
        {"path": str(video_file), "id": f"c{i}", "start_s": i, "end_s": i + 1, "text": text, "split": split}
        for i, (text, split) in enumerate([("a red ring", "test"), ("a blue bar", "test"), ("a green bar", "train")])
    ]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))

    words = tmp_path / "words"
    assert main(["vocabulary", str(manifest), "--kind", "words", "--split", "test", "--output", str(words)]) == 0
    assert "(words, 7 ids from 2 texts)" in capsys.readouterr().out
    assert sorted(load_vocabulary(words).words) == ["a", "bar", "blue", "red", "ring"]

    embeddings, report = tmp_path / "embeddings", tmp_path / "report.json"
    argv = ["embed", str(manifest), "--model", str(model_folder), "--output", str(embeddings), "--split", "test"]
    assert main(argv) == 0
    assert main(["retrieve", str(embeddings), "--output", str(report)]) == 0
    printed = capsys.readouterr().out
    assert "text → video" in printed
    found = json.loads(report.read_text())
    for direction in ("text_to_video", "video_to_text", "audio_to_video", "video_to_audio"):
        assert found[direction]["gallery"] == 2
        assert found[direction]["R@5"] == 100.0
        assert found[direction]["chance"]["R@1"] == 50.0


def test_a_benchmarks_protocol_depends_on_neither_batches_nor_workers(
    video_file: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five videos of MSR-VTT 1k-A, as data/msrvtt/prepare.py writes them."""
    captions = ("a red ring", "a blue bar", "a green ring moves left", "red", "a red ring")  # one comes twice
    rows = [
        {
            "id": f"video{i}",
            "path": str(video_file),
            "start_s": i / 4,
            "texts": [text],
            "split": "test",
            "x_list": "msrvtt-1ka",
        }
        for i, text in enumerate(captions)
    ]
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    found = []
    for batch_size, num_workers in ((1, 0), (2, 0), (7, 2)):
        folder, report = tmp_path / f"e{batch_size}", tmp_path / f"r{batch_size}.json"
        options = ["--batch_size", str(batch_size), "--num_workers", str(num_workers), "--split", "test"]
        embed = ["embed", str(manifest), "--model", str(model_folder), "--output", str(folder), *options]
        assert main([*embed, "--windows", "4"]) == 0
        capsys.readouterr()
        assert main(["retrieve", str(folder), "--protocol", "msrvtt-1ka", "--output", str(report)]) == 0
        printed = capsys.readouterr().out
        assert "5 of 1000 clips" in printed
        assert "captions that another clip has too: 2" in printed
        assert "| **clips_present** | **5** |" in report.with_suffix(".md").read_text()
        found.append(json.loads(report.read_text()))
    assert {"code", "hardware", "training", "windows"} <= found[0].keys()
    for direction in ("text_to_video", "video_to_text"):
        assert found[0][direction] == found[1][direction] == found[2][direction]
        assert found[0][direction]["gallery"] == 5
    assert main(["embed", str(manifest), "--model", str(model_folder), "--output", str(tmp_path / "hop")]) == 0
    assert main(["retrieve", str(tmp_path / "hop"), "--protocol", "msrvtt-1ka"]) == 2
    assert "--windows 4" in capsys.readouterr().err
