from __future__ import annotations

import pytest

from tests.datasets.manifests.conftest import Read, texts
from vatt.errors import ManifestError
from vatt.structures import TimedText


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"path": "a.mp4", "text": "one", "text": "two"}', "line 1: the key 'text' occurs twice"),
        ('{"path": "a.mp4"}\n{"path": "b.mp4", "texts": [{"text": "x", "text": "y"}]}', "line 2: the key 'text'"),
        ('{"path": "a.mp4"}\n{"path": "b.mp4", "txet": "x"}', "line 2, column 'txet': unknown; did you mean 'text'"),
        ('{"path": "a.mp4"}\n{"text": "x"}', "line 2, column 'path': missing"),
        ('[\n{"path": "a.mp4"}\n]', "line 1: the file seems to be one JSON array"),
        ('[{"path": "a.mp4"},\n{"path": "b.mp4"}]', "line 1: the file seems to be one JSON array"),
        ('{"path": "a.mp4", "x_a": ' + "[" * 99_999 + "]" * 99_999 + "}", "line 1: lists or objects are nested too"),
        ('{"path": "a.mp4", "text": {"a": 1}}', "line 1, column 'text': must be one text"),
        ('{"path": "a.mp4", "start_s": true}', "line 1, column 'start_s': True is not a number of seconds"),
        ('{"path": ["a.mp4"]}', r"1 bad rows\n  line 1, column 'path': must be one text"),
    ],
)
def test_invalid_lines_are_errors(read: Read, content: str, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read("clips.jsonl", content)


def test_lone_surrogates_are_reported_once_and_other_rows_are_read(read: Read) -> None:
    content = (
        '{"path": "a.mp4", "text": "a dog \\ud83d", "x_note": ["\\udc00"]}\n'
        '{"path": "b\\ud83d.mp4", "text": "skipped"}\n'
        '{"path": "c.mp4", "text": "\\ud83d\\ude00", "label": " e\\u0301 ", "split": "train "}\n'
    )
    clips, warnings = read("clips.jsonl", content)
    assert texts(clips) == {"a.mp4": ["a dog \ufffd"], "c.mp4": ["\U0001f600"]}
    assert clips[0].extra == {"x_note": ["\ufffd"]}
    assert (clips[1].labels, clips[1].split) == (("é",), "train")
    assert [event["path"] for event in clips.skipped] == ["b\\ud83d.mp4"]
    assert [line.partition(" (first: ")[2] for line in warnings] == ["line 1)", "line 2: b\\ud83d.mp4)"]


def test_values_keep_their_types(read: Read) -> None:
    content = '{"path": "a.mp4", "label": 3.0, "labels": [10.0, " x "], "x_year": 2020.0, "x_none": NaN, "x_on": true}'
    (clip,) = read("clips.jsonl", content)[0]
    assert clip.labels == ("3", "10", "x")
    assert clip.extra == {"x_year": 2020, "x_none": None, "x_on": True}
    assert isinstance(clip.extra["x_year"], int)
    (clip,) = read("clips.jsonl", '{"path": "a.mp4", "text": "null", "label": "None"}')[0]  # strings are strings
    assert (clip.texts, clip.labels) == ((TimedText("null"),), ("None",))


def test_words_are_sorted_by_time(read: Read) -> None:
    words = '[{"word": "b", "start": 2, "end": 3}, {"word": "a", "start": 0.5, "end": 1}]'
    (clip,) = read("clips.jsonl", f'{{"path": "a.mp4", "words": {words}}}')[0]
    assert clip.words == (TimedText("a", 0.5, 1.0), TimedText("b", 2.0, 3.0))


@pytest.mark.parametrize(
    "item",
    [
        '{"word": "a", "start_s": 1, "end_s": "2.5"}',
        '{"word": "a", "timestamp": [1, 2.5]}',
        '{"text": " a", "timestamp": [1, 2.5]}',
        '{"word": "a", "start": 1, "end": 2.5, "probability": 0.9}',
        '{"word": "a", "start": 1, "end": 2.5, "score": 0.9, "start_s": null}',
    ],
)
def test_times_of_words_under_several_keys(read: Read, item: str) -> None:
    (clip,) = read("clips.jsonl", f'{{"path": "a.mp4", "words": [{item}]}}')[0]
    assert clip.words == (TimedText("a", 1.0, 2.5),)
    if '"word"' in item:
        (clip,) = read("clips.jsonl", f'{{"path": "a.mp4", "texts": [{item.replace("word", "text")}]}}')[0]
        assert clip.texts == (TimedText("a", 1.0, 2.5),)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ('{"word": "a", "begin": 1, "end": 2}', "'a' has the unknown key 'begin'"),
        ('{"word": "a", "start": 1, "end": 2, "t0": 3}', "'a' has the unknown key 't0'"),
        ('{"word": "a", "start": 1, "end_s": 2}', "'a' has the unknown key 'end_s'"),
        ('{"word": "a", "start_s": 2, "end_s": 1}', "'a' has start 2.0 and end 1.0"),
        ('{"word": "a", "timestamp": [2, null]}', "'a' has start 2.0 and end None"),
        ('{"word": "a", "timestamp": 2}', r"'a' has a 'timestamp' that is not \[start, end\]"),
    ],
)
def test_other_keys_of_words_are_errors(read: Read, item: str, message: str) -> None:
    with pytest.raises(ManifestError, match=f"line 2, column 'words': {message}"):
        read("clips.jsonl", f'{{"path": "a.mp4"}}\n{{"path": "b.mp4", "words": [{item}]}}')


def test_times_of_labels_are_errors(read: Read) -> None:
    (clip,) = read("clips.jsonl", '{"path": "a.mp4", "labels": [{"label": 0}, {"label": "b"}]}')[0]
    assert clip.labels == ("0", "b")
    with pytest.raises(ManifestError, match="line 1, column 'labels': 'a' has times, which labels cannot have"):
        read("clips.jsonl", '{"path": "a.mp4", "labels": [{"label": "a", "start": 1, "end": 2}]}')


def test_equal_text_and_texts_are_one_caption(read: Read) -> None:
    (clip,) = read("clips.jsonl", '{"path": "a.mp4", "text": "a dog", "texts": ["a dog", "a cat"]}')[0]
    assert texts([clip]) == {"a.mp4": ["a dog", "a cat"]}


def test_keys_in_composed_and_decomposed_form_are_one_column(read: Read) -> None:
    clips, _ = read("clips.jsonl", '{"path": "a.mp4", "x_\u00e9": 1}\n{"path": "b.mp4", "x_e\u0301": 2}\n')
    assert [clip.extra for clip in clips] == [{"x_\u00e9": 1}, {"x_\u00e9": 2}]


def test_utf_16_and_u2028(read: Read) -> None:
    clips, _ = read("clips.jsonl", '{"path": "a.mp4", "text": "x\u2028y\u0085z"}\n'.encode("utf-16"))
    assert texts(clips) == {"a.mp4": ["x\u2028y\u0085z"]}


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ('"x_d": ' + "[" * 700 + "]" * 700, "x_d"),
        ('"x_d": ' + '{"a":' * 700 + "1" + "}" * 700, "x_d"),
        ('"x_s": "\\ud83d", "x_d": ' + "[" * 700 + "]" * 700, "x_d"),
        ('"start_s": ' + "1" * 400, "start_s"),
        ('"labels": ["a"], "end_s": ' + "1" * 400, "end_s"),
    ],
)
def test_deep_values_and_large_numbers_are_errors_of_their_column(read: Read, row: str, column: str) -> None:
    with pytest.raises(ManifestError, match=f"line 2, column '{column}'"):
        read("clips.jsonl", '{"path": "a.mp4"}\n{"path": "b.mp4", ' + row + "}\n")


def test_lone_surrogates_of_utf_16_are_replaced(read: Read) -> None:
    line = '{"path": "a.mp4", "text": "x\ud83d"}\n'
    clips, warnings = read("clips.jsonl", b"\xff\xfe" + line.encode("utf-16-le", "surrogatepass"))
    assert texts(clips) == {"a.mp4": ["x\ufffd"]}
    assert len(warnings) == 1
