"""Quotes that swallow rows are errors, and captions of several lines are read."""

from __future__ import annotations

import csv
import io
import random
import warnings
from pathlib import Path

import pytest

from tests.datasets.manifests.conftest import Read
from vatt.datasets.manifest import read_manifest
from vatt.errors import ManifestError

PATHS = ["videos/{:03d}.mp4", "my videos/clip {}.mp4", "0.tar#{}+10", "https://h/v?id={}", "yt_{}", "some dir/no {}"]
ORDERS = ["path,text", "text,path", "path,text,split", "text,path,split", "label,text,path", "id,path,text", "x_n,path"]
CAPTIONS = ["a dog", "two people cook", "say hi, everyone", "of 1,000 people", ""]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("names", ORDERS)
def test_a_stray_quote_loses_no_rows(tmp_path: Path, path: str, names: str) -> None:
    generator, columns = random.Random(f"{path} {names}"), names.split(",")
    lost = []
    for _ in range(40):
        count = generator.randint(3, 6)
        cells = {"split": lambda i: "train", "label": lambda i: "dog", "id": str, "path": path.format}
        rows = [[cells.get(c, lambda i: generator.choice(CAPTIONS))(i) for c in columns] for i in range(count)]
        column = generator.choice([i for i, c in enumerate(columns) if c not in ("path", "id", "split")])
        first = generator.randrange(count - 1)
        last = min(count - 1, first + generator.choice([1, 1, 2]))
        quoted = [[f'"{cell}"' if "," in cell else cell for cell in row] for row in rows]
        quoted[first][column] = f'"{rows[first][column]}'
        quoted[last][column] = f'{rows[last][column]}"'
        content = "\n".join([names, *map(",".join, quoted)])
        (tmp_path / "clips.csv").write_text(content)
        try:
            if len(read_manifest(tmp_path / "clips.csv", check_files=False)) != count:
                lost.append(content)
        except ManifestError:
            pass
    assert not lost, lost[0]


@pytest.mark.parametrize("names", ORDERS)
def test_captions_of_several_lines_are_read(tmp_path: Path, names: str) -> None:
    lines = ["say hi, everyone", "roses,", "a dog", "", "then, all together, now", "5 pm", "see https://h, too", "end."]
    generator, columns = random.Random(names), names.split(",")
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC):
        rows = []
        for number in range(30):
            text = "\n".join(generator.choices(lines, k=generator.randint(2, 4))).strip() or "x"
            row = {"path": f"v/{number}.mp4", "split": "train", "label": "dog", "id": str(number)}
            rows.append([row.get(column, text) for column in columns])
        with (tmp_path / "clips.csv").open("w", newline="") as file:
            csv.writer(file, quoting=quoting).writerows([columns, *rows])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            clips = read_manifest(tmp_path / "clips.csv", check_files=False)
        expected = [row[columns.index("text")] for row in rows] if "text" in columns else [""] * 30
        assert ["".join(text.text for text in clip.texts) for clip in clips] == expected


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_captions_in_consistent_quotes_may_look_like_rows(read: Read, quoting: int) -> None:
    file = io.StringIO()
    csv.writer(file, quoting=quoting).writerows([["path", "text", "start_s"], ["a.mp4", "one,2,3\nb.mp4,two,3", 1.5]])
    clips, _ = read("clips.csv", file.getvalue())
    assert [clip.texts[0].text for clip in clips] == ["one,2,3\nb.mp4,two,3"]


def test_captions_that_may_be_rows_are_reported(read: Read) -> None:
    clips, messages = read("clips.csv", 'path,text\na.mp4,"a crowd\nof 1,000 people"\nb.mp4,x\n')
    assert [clip.texts[0].text for clip in clips] == ["a crowd\nof 1,000 people", "x"]
    assert messages == [
        "1 cells of several lines have lines that could be rows: check where their quotes are closed (first: line 2)"
    ]


@pytest.mark.parametrize(
    "content",
    [
        'path,text\nsome dir/noext one,"a dog\nsome dir/noext two,a cat"\n',
        'path,text\nclip one,"a dog\nclip two,a cat"\n',
        'path,text\ndir/v.dat,"a dog\ndir/w.bin,a cat, too"\n',
        'path, text\nclip one, "a dog\nclip two, a cat"\n',
        'path;text\nvids\\a;"a dog\nvids\\b;a cat"\n',
        'path,text,split\na.mp4,"a dog,train\nb.mp4,",train\n',
        'path,text\na.mp4,"a dog\n\nb.mp4,x\n"\nc.mp4,y\n',
        'text,path,\n"a dog,a.mp4,\na cat",b.mp4,\n',
        '"path",text\na.mp4,"a dog\nb.mp4,a cat"\n',
    ],
)
def test_rows_in_a_cell_are_errors(read: Read, content: str) -> None:
    with pytest.raises(ManifestError, match=r"line 2: a quote is closed too late, in another row.* around all cells"):
        read("clips.csv", content)


@pytest.mark.parametrize(
    "content",
    [
        'path,text\n0.tar#0+10,"open\n0.tar#10+10,closed"\n',
        'path,text\nhttps://h/v?id=1,"open\nhttps://h/v?id=2,closed"\n',
        'path,text\na.mp4,"open\nb.webm,closed"\n',
        'path,text\na.mp4,"open\nmy b.JPG,one, two"\n',
        'path,text\na.mp4,"open\nnoext,cat"\n',
        'path,text\nnoext1,"open\nnoext2,cat"\n',
        'path,label,text\na.mp4,dog,"open\nb,cat,x"\n',
        'path\ttext\ns3://b/1\t"open\ns3://b/2\tclosed"\n',
    ],
)
def test_unclosed_quote_across_rows_is_an_error(read: Read, content: str) -> None:
    with pytest.raises(ManifestError, match="line 2: a quote is closed too late, in another row"):
        read("clips.csv", content)
