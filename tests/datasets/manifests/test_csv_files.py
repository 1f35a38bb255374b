"""CSV files written by spreadsheets, pandas and by hand are read, or rejected with line number and cause."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
from pathlib import Path

import pytest

from tests.datasets.manifests.conftest import Read, texts
from vatt.errors import ManifestError

HEADER = "path,text,split\na.mp4,one,train\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (HEADER + 'b.mp4,"open,train\nc.mp4,three,train\nd.mp4,"four five",train\n', "line 3: a quote is not closed"),
        (HEADER + 'b.mp4,"open,train\nc.mp4,three,train\n', "line 3: a quote is not closed"),
        (HEADER + 'b.mp4,"open,train\nc.mp4,three,train\nd.mp4,four",train\n', "line 3: a quote is closed too late"),
        (HEADER + 'b.mp4,"open,train\nc.mp4,three",train\n', "line 3: a quote is closed too late"),
        (HEADER + 'b.mp4,"a dog" runs,train\n', "line 3: .*text follows a closing quote"),
        (HEADER + "b.mp4,two\n", "line 3: 2 cells, but the header names 3 columns"),
        (HEADER + "b.mp4,two, three,train\n", "line 3: 4 cells, but the header names 3 columns. Put quotes"),
        ("path,text,text\na.mp4,one,two\n", "line 1, column 'text': occurs twice"),
        ("path;text; text \na.mp4;one;two\n", "line 1, column 'text': occurs twice"),
        ("path,x_\u00e9,x_e\u0301\na.mp4,1,2\n", "line 1, column 'x_e\u0301': occurs twice"),
        ('"path","text"\n"1","a.mp4","x"\n', r"line 2: 3 cells, .* write.table of R writes it, pass row.names=FALSE"),
        ("path,text,\na.mp4,one,\nb.mp4,two,note\n", "line 3: column 3 has no name, but the value 'note'"),
        (",path\nfirst,a.mp4\n", "line 2: column 1 has no name, but the value 'first'"),
        ("path,label\na.mp4,#REF!\n", "line 2, column 'label': a formula"),
        ('path,start_s\na.mp4,"1,5"\n', r"line 2, column 'start_s': '1,5' has a decimal comma: write 1\.5"),
        ("path,text\na.mp4,x\0y\n", "line 2: contains NUL characters"),
        ("path\ttext\na.mp4\tCafé\n".encode("utf-16-le"), "line 1: contains NUL .* UTF-16 without a byte order mark"),
        ("path,text\na.mp4,Café\n".encode() + b"b.mp4,Caf\xe9\n", "line 3: not UTF-8, but line 2 is"),
        ("path,text\na.mp4,собака\n".encode("cp1251"), "line 2: .*does not look like Windows-1252"),
        ("path,text\na.mp4,犬が走る\n".encode("shift-jis"), "line 2: "),
    ],
)
def test_invalid_files_are_errors_that_name_the_line(read: Read, content: str | bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read("clips.csv", content)


@pytest.mark.parametrize(
    "content",
    [
        "path,text\na.mp4,é x\nb.mp4,two",
        "path;text\r\na.mp4;é x\r\nb.mp4;two\r\n",
        "path|text\na.mp4|é x\nb.mp4|two\n",
        "sep=;\r\npath;text\r\na.mp4;é x\r\nb.mp4;two\r\n",
        "path,text,,\na.mp4,é x,,\nb.mp4,two\n,,,\n\n , \n",
        "\n\r\npath,text\na.mp4,é x\nb.mp4,two",
        " path , text \n a.mp4 , é x \nb.mp4,two,\n",
        ",path,text\n0,a.mp4,é x\n7,b.mp4,two\n",
        "Unnamed: 0,path,text\n0,a.mp4,é x\n,b.mp4,two\n",
        '"path","text"\n"a.mp4","e\u0301 x"\n"b.mp4","two"\n',
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "windows-1252"])
def test_separators_line_ends_and_encodings(read: Read, content: str, encoding: str) -> None:
    if encoding == "windows-1252":
        content = content.replace("e\u0301", "é")
    bom = b"\xfe\xff" if encoding == "utf-16-be" else b""
    clips, warnings = read("clips.tsv" if "\t" in content else "clips.csv", bom + content.encode(encoding))
    assert texts(clips) == {"a.mp4": ["é x"], "b.mp4": ["two"]}
    assert any("is read as Windows-1252 (first: line" in line for line in warnings) == (encoding == "windows-1252")
    assert any("ignored as the row index of pandas" in line for line in warnings) == ("0,a.mp4" in content)


def test_carriage_returns_end_lines(read: Read) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        clips, _ = read("clips.tsv", "path\ttext\ra.mp4\té x\rb.mp4\ttwo\r".encode(encoding))
        assert texts(clips) == {"a.mp4": ["é x"], "b.mp4": ["two"]}


def test_only_line_feeds_and_carriage_returns_end_lines(read: Read) -> None:
    text = "x\u2028y\u0085z\x0bw\x1cv"
    clips, _ = read("clips.csv", f'path,text\na.mp4,{text}\nb.mp4,"two\nlines, 5"" tall"\nc.mp4,a 5" disc\n')
    assert texts(clips) == {"a.mp4": [text], "b.mp4": ['two\nlines, 5" tall'], "c.mp4": ['a 5" disc']}


def test_decimal_commas_beside_other_separators(read: Read) -> None:
    clips, _ = read("clips.csv", "path;start_s;end_s;label\na.mp4;1,5;2.75;0,0\nb.mp4;0;3;12,0\n")
    assert [(clip.start_s, clip.end_s, clip.labels) for clip in clips] == [(1.5, 2.75, ("0",)), (0.0, 3.0, ("12",))]


def test_missing_values_are_read_as_pandas_reads_them(read: Read) -> None:
    content = "path,text,label,split,start_s,x_note\na.mp4,null,NaN,N/A,nan,NA\nb.mp4,None of us,#N/A,,NULL,\n"
    clips, warnings = read("clips.csv", content)
    assert texts(clips) == {"a.mp4": [], "b.mp4": ["None of us"]}
    assert [(clip.labels, clip.split, clip.start_s, clip.extra) for clip in clips] == [
        ((), None, 0.0, {"x_note": "NA"}),
        ((), None, 0.0, {"x_note": ""}),
    ]
    assert warnings == ["4 cells are read as missing values (first: line 2: column 'split': 'N/A')"]


def test_null_of_databases_is_missing(read: Read) -> None:
    clips, _ = read(
        "clips.csv", "path,text,label,split,start_s,audio_path\na.mp4,\\N,\\N,\\N,\\N,\\N\nb.mp4,.,.,,,NaN\n"
    )
    assert [(clip.labels, clip.split, clip.start_s, clip.audio_path) for clip in clips] == [
        ((), None, 0.0, None),
        ((".",), None, 0.0, None),
    ]
    assert texts(clips) == {"a.mp4": [], "b.mp4": ["."]}


def test_text_formulas_of_excel_are_read(read: Read) -> None:
    clips, _ = read("clips.csv", 'path,text,label\n"=""a.mp4""","=""12""","=""001"""\nb.mp4,"=""say"" x",01\n')
    assert texts(clips) == {"a.mp4": ["12"], "b.mp4": ['="say" x']}
    assert [clip.labels for clip in clips] == [("001",), ("01",)]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl"])
def test_byte_order_marks_of_joined_files_are_ignored(read: Read, name: str, encoding: str) -> None:
    if name == "clips.csv":
        lines = ["label,path\ndog,a.mp4\n", "dog,b.mp4\n"]
    else:
        lines = ['{"label": "dog", "path": "a.mp4"}\n', '{"label": "\ufeffdog\u200b", "path": "b.mp4"}\n']
    clips, warnings = read(name, b"".join(line.encode(encoding) for line in lines))
    assert [(clip.id, clip.labels) for clip in clips] == [("a.mp4", ("dog",)), ("b.mp4", ("dog",))]
    assert not warnings
    clips, _ = read(name, ("\ufeff" + lines[0]).encode(encoding))
    assert len(clips) == 1


def test_invisible_characters_of_texts_and_splits(read: Read) -> None:
    clips, warnings = read(
        "clips.csv", "path,text,split\na.mp4,\u200ba dog\u00ad,\u200btrain\nb.mp4,x\u200c,tr\u200bain\n"
    )
    assert texts(clips) == {"a.mp4": ["a dog"], "b.mp4": ["x\u200c"]}
    assert [clip.split for clip in clips] == ["train", "tr\u200bain"]
    assert ["differ only in case, spaces, Unicode normalization or invisible" in warning for warning in warnings] == [
        True
    ]
    with pytest.raises(ManifestError, match=r"no file at .*, whose path has invisible characters: '.*\\u200ba.mp4'"):
        read("clips.csv", "path,text\n\u200ba.mp4,x\n")


def test_a_repeated_header_is_an_error(read: Read) -> None:
    with pytest.raises(ManifestError, match="line 3: the header again, as in files that were joined"):
        read("clips.csv", "path,text\na.mp4,x\n\ufeffpath,text\nb.mp4,y\n")


def test_pandas_files_are_read(read: Read, tmp_path: Path) -> None:
    """An index column, and integers as floats because one is missing."""
    import pandas

    frame = pandas.DataFrame({"path": ["a.mp4", "b.mp4", "c.mp4"], "label": [0, 10, None], "text": ["x", None, "y"]})
    frame.to_csv(tmp_path / "clips.csv")
    clips, warnings = read("clips.csv")
    assert [(clip.labels, len(clip.texts)) for clip in clips] == [(("0",), 1), (("10",), 0), ((), 1)]
    assert warnings == ["3 values of column without a name are ignored as the row index of pandas (first: line 2)"]


@pytest.mark.parametrize(("cells", "labels"), [("1.0 2", "1 2"), ("1.5 2.0", "1.5 2.0"), ("dog 2.0", "dog 2.0")])
def test_float_labels_are_integers_if_all_are(read: Read, cells: str, labels: str) -> None:
    rows = "".join(f"{path}.mp4,{cell}\n" for path, cell in zip("ab", cells.split(), strict=True))
    clips, _ = read("clips.csv", "path,label\n" + rows)
    assert [clip.labels for clip in clips] == [(label,) for label in labels.split()]


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        ('path,label\na.mp4,1\nb.mp4,"1,000"\n', "1 1,000"),
        ('path,label\na.mp4,1\nb.mp4,"2,0"\n', "1 2,0"),
        ("path;label\na.mp4;1.000\nb.mp4;12.000\n", "1.000 12.000"),
        ("path;label\na.mp4;1,0\nb.mp4;12,0\n", "1 12"),
        ("path,label\na.mp4,10.00\nb.mp4,10.0\n", "10.00 10.0"),
        ("path,label\na.mp4,007.0\nb.mp4,7.0\n", "007.0 7.0"),
        ("path,label\na.mp4,-1.0\nb.mp4,0.0\n", "-1 0"),
        ("path,label\na.mp4,0.00\nb.mp4,10.00\n", "0 10"),
        ("path;label\na.mp4;0,000\nb.mp4;10,000\n", "0 10"),
        ("path,label\na.mp4,10.00\nb.mp4,10.50\n", "10.00 10.50"),
        ("path,label\na.mp4,10.00\nb.mp4,dog\n", "10.00 dog"),
        ("path,label\na.mp4,0\nb.mp4,100\n", "0 100"),
        ("path,label\na.mp4,100000\nb.mp4,1.000\n", "100000 1.000"),
    ],
)
def test_only_floats_of_pandas_become_integers(read: Read, content: str, labels: str) -> None:
    clips, warnings = read("clips.csv", content)
    assert [clip.labels for clip in clips] == [(label,) for label in labels.split()]
    assert not warnings


def test_labels_with_and_without_decimals_are_reported(read: Read) -> None:
    clips, warnings = read("clips.csv", "path,label\na.mp4,7\nb.mp4,7.0\nc.mp4,3.0\n")
    assert [clip.labels for clip in clips] == [("7",), ("7",), ("3",)]
    assert warnings == ["1 labels are written with and without decimals (first: '7')"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "path\tstart_s\na.mp4\t1,000\n",
            "line 2, column 'start_s': the comma of '1,000' may separate",
        ),
        (
            "path;start_s\na.mp4;1.000\nb.mp4;12,5\n",
            "line 2, column 'start_s': '1.000' has a point, but '12,5'",
        ),
        ("path;start_s;end_s\na.mp4;0,5;1.000\n", "line 2, column 'end_s': '1.000' has a point, but '0,5' in line 2"),
        ("path;start_s\na.mp4;1.5\nb.mp4;2,25\n", "line 2, column 'start_s': '1.5' has a point, but '2,25'"),
        (
            'path,start_s\na.mp4,"1,000"\n',
            "line 2, column 'start_s': the comma of '1,000' may separate",
        ),
        (
            'path;words\na.mp4;"[{""word"": ""a"", ""start"": ""1,5"", ""end"": ""2,000""}]"\n',
            "line 2, column 'words': '1,5' has a decimal comma: write 1.5",
        ),
        ("path;start_s\na.mp4;1.000,5\n", "line 2, column 'start_s': '1.000,5' is not a number of seconds"),
        ("path,start_s\na.mp4,1_000\n", "line 2, column 'start_s': '1_000' is not a number of seconds"),
        ("path,start_s\na.mp4,\uff11\n", "line 2, column 'start_s': '\uff11' is not a number of seconds"),
        ("path;start_s\na.mp4;\u0661,5\n", "line 2, column 'start_s': '\u0661,5' is not a number of seconds"),
        (f"path,start_s\na.mp4,{'1' * 400}\n", "line 2, column 'start_s': '1111"),
    ],
)
def test_seconds_that_could_be_read_in_two_ways_are_errors(read: Read, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=re.escape(message)):
        read("clips.csv", content)


def test_decimal_comma_before_three_digits_is_read_if_others_are_unambiguous(read: Read) -> None:
    clips, _ = read("clips.csv", "path;start_s;end_s\na.mp4;1,250;2,5\nb.mp4;0,125;12,375\n")
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(1.25, 2.5), (0.125, 12.375)]
    clips, _ = read("clips.csv", "path;start_s\na.mp4;1.000\n")
    assert clips[0].start_s == 1.0


def test_captions_of_several_lines_are_read(read: Read) -> None:
    caption = "say hi,\nroses,\nto all, again\nyes, e.g. this, see https://example.org, or a.mp4, x\n\n2.5, 3.0"
    clips, _ = read("clips.csv", f'path,text\na.mp4,"{caption}"\nb.mp4,x\n')
    assert texts(clips) == {"a.mp4": [caption], "b.mp4": ["x"]}


def test_json_of_several_lines_is_read(read: Read) -> None:
    words = '[\n{""word"":""a"",""start"":1,\n""end"":2},\n{""word"":""b"",""start"":2,""end"":3}\n]'
    clips, _ = read("clips.csv", f'path,words\na.mp4,"{words}"\nb.mp4,"[\n{{""word"":""c"",""start"":1,""end"":2}}]"\n')
    assert [[word.text for word in clip.words] for clip in clips] == [["a", "b"], ["c"]]
    clips, _ = read("clips.csv", 'path,texts\na.mp4,"[\n""x"",\n""y"",""z""\n]"\n')
    assert texts(clips) == {"a.mp4": ["x", "y", "z"]}


def test_lone_surrogates_of_utf_16_are_replaced(read: Read) -> None:
    lines = ["path,text\na.mp4,x", "\nb.mp4,y\n"]
    clips, warnings = read("clips.csv", b"\xff\xfe" + b"\x3d\xd8".join(line.encode("utf-16-le") for line in lines))
    assert texts(clips) == {"a.mp4": ["x\ufffd"], "b.mp4": ["y"]}
    assert warnings == ["1 rows have U+FFFD in place of invalid Unicode (half of a surrogate pair) (first: line 2)"]


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl", "clips.csv.gz", "clips.tsv"])
@pytest.mark.parametrize(
    ("start", "cause"),
    [
        (gzip.compress(b"path\n", mtime=0), "compressed with gzip: decompress it"),
        (b"PK\x03\x04\x14\0\x06\0", "a ZIP archive or a spreadsheet"),
        (bz2.compress(b"path\n"), "compressed with bzip2: decompress it"),
        (lzma.compress(b"path\n"), "compressed with xz: decompress it"),
        (b"PAR1", "a Parquet file: rename it"),
    ],
)
def test_error_names_the_format_of_other_files(read: Read, name: str, start: bytes, cause: str) -> None:
    with pytest.raises(ManifestError, match=f"{name}: the file is {cause}"):
        read(name, start)


def test_error_suggests_mac_roman(read: Read) -> None:
    with pytest.raises(ManifestError, match="probably Mac Roman: save the file as UTF-8"):
        read("clips.csv", "path,text\ra.mp4,caf\u00e9 noir\r".encode("mac-roman"))
    clips, _ = read("clips.csv", 'path,text\na.mp4,"caf\u00e9\rnoir"\n'.encode("windows-1252"))
    assert texts(clips) == {"a.mp4": ["caf\u00e9\rnoir"]}


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".csv.gz", ""])
@pytest.mark.parametrize("name", ["clips.csv", "clips.parquet"])
def test_directory_of_part_files_is_an_error(read: Read, tmp_path: Path, name: str, suffix: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / f"part-0{suffix}").write_bytes(b"path\na.mp4\n")
    (tmp_path / name / "_SUCCESS").touch()
    with pytest.raises(ManifestError, match=r"is a folder with \.\w+ files .* write them as one file"):
        read(name)
