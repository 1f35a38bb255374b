from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from vatt.datasets.text.making import Coverage
from vatt.datasets.text.sentencepiece import SentencePieceVocabulary
from vatt.datasets.text.vocabularies import Vocabulary, WordVocabulary, load_vocabulary, make_vocabulary
from vatt.errors import InputError

TEXTS = ["A red ring moves left.", "a blue bar, moves right!", "a red bar grows", "the ring is red"] * 5


@pytest.fixture(params=["words", "sentencepiece", "huggingface"])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Vocabulary, Path]:
    folder = tmp_path / "vocabulary"
    if request.param == "huggingface":
        make_vocabulary([], folder, "huggingface", tokenizer=str(huggingface_tokenizer(tmp_path)))
    else:
        make_vocabulary(TEXTS, folder, request.param, size=60)
    return load_vocabulary(folder), folder


def huggingface_tokenizer(folder: Path) -> Path:
    """A word-level tokenizer, made without a download."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "a", "red", "ring", "moves", "left", "blue", "bar", "right", "grows", "the", "is", "[PAD]"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    outer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")
    outer.save_pretrained(str(folder / "hub"))
    return folder / "hub"


def test_every_kind_reads_what_it_wrote(made: tuple[Vocabulary, Path]) -> None:
    vocabulary, _ = made
    assert isinstance(vocabulary, Vocabulary)
    ids = vocabulary.encode("a red ring moves left")
    assert vocabulary.pad_id not in ids
    assert all(0 <= i < len(vocabulary) for i in ids)
    assert vocabulary.decode([*ids, vocabulary.pad_id]) == "a red ring moves left"
    assert vocabulary.encode("A RED ring") == vocabulary.encode("a red ring")


def test_every_kind_is_saved_and_copied_whole(made: tuple[Vocabulary, Path], tmp_path: Path) -> None:
    vocabulary, _ = made
    vocabulary.save(tmp_path / "copy")
    copy = load_vocabulary(tmp_path / "copy")
    for text in TEXTS:
        assert copy.encode(text) == vocabulary.encode(text)


def test_every_kind_reports_known_and_unknown_words(made: tuple[Vocabulary, Path]) -> None:
    vocabulary, _ = made
    known = vocabulary.coverage("a RED ring")
    assert known.known >= 3
    assert known.unknown == ()
    some = vocabulary.coverage("a red кот moves кот")
    assert some.known >= 3
    assert some.unknown == ("кот",)
    assert vocabulary.coverage("кот 日本").known == 0
    assert vocabulary.coverage("кот 日本").unknown == ("кот", "日本")
    assert vocabulary.coverage("  ") == Coverage(0, ())


def test_every_kind_travels_to_worker_processes(made: tuple[Vocabulary, Path]) -> None:
    vocabulary, _ = made
    assert pickle.loads(pickle.dumps(vocabulary)).encode("a red bar") == vocabulary.encode("a red bar")


def test_words_are_ranked_by_count_then_alphabet_and_the_rest_is_unknown() -> None:
    vocabulary = WordVocabulary.train(["b b a a c", "Zoo!"], size=5)
    assert vocabulary.words == ["a", "b", "c"]
    assert vocabulary.encode("c zoo A") == [4, vocabulary.unknown_id, 2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "\u0915\u093f\u0924\u093e\u092c \u0932\u093e\u0932",
            ["\u0915\u093f\u0924\u093e\u092c", "\u0932\u093e\u0932"],
        ),  # Hindi
        ("\u0e01\u0e34\u0e19 \u0e02\u0e49\u0e32\u0e27!", ["\u0e01\u0e34\u0e19", "\u0e02\u0e49\u0e32\u0e27"]),  # Thai
        ("\u0643\u0650\u062a\u0627\u0628", ["\u0643\u0650\u062a\u0627\u0628"]),  # Arabic
        (
            "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd.",
            ["\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd"],
        ),  # Hebrew, in canonical order
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            ["\u0645\u06cc\u062e\u0648\u0627\u0647\u0645"],
        ),  # a zero-width non-joiner
        ("Cafe\u0301 x\u0302", ["caf\u00e9", "x\u0302"]),
        ("I \u2764\ufe0f it, 5\ufe0f\u20e3 \U0001f468\u200d\U0001f467", ["i", "it", "5"]),  # emoji
        ("Don't_stop - a b.", ["dontstop", "a", "b"]),
    ],
)
def test_words_keep_their_combining_marks(text: str, words: list[str]) -> None:
    vocabulary = WordVocabulary.train([text], 100)
    assert sorted(vocabulary.words) == sorted(words)
    assert [vocabulary.decode([i]) for i in vocabulary.encode(text)] == words
    assert vocabulary.coverage(text) == Coverage(len(words), ())


def test_words_of_other_vowel_signs_are_other_words() -> None:
    vocabulary = WordVocabulary(["\u0915\u093f\u0924\u093e\u092c"])
    assert vocabulary.encode("\u0915\u0924\u092c") == [vocabulary.unknown_id]


def test_composed_and_decomposed_texts_have_the_same_ids(made: tuple[Vocabulary, Path], tmp_path: Path) -> None:
    vocabulary, _ = made
    assert vocabulary.encode("a caf\u00e9 \uac00") == vocabulary.encode("a cafe\u0301 \u1100\u1161")
    assert vocabulary.coverage("caf\u00e9") == vocabulary.coverage("cafe\u0301")
    for form in ("caf\u00e9", "cafe\u0301"):
        assert WordVocabulary(["red", form]).encode("cafe\u0301 caf\u00e9") == [3, 3]
        pieces = SentencePieceVocabulary.train([*TEXTS, form] * 3, 60, tmp_path)
        assert 1 not in pieces.encode("caf\u00e9") + pieces.encode("cafe\u0301")  # 1 is unknown


def test_halves_of_surrogate_pairs_are_unknown(made: tuple[Vocabulary, Path]) -> None:
    vocabulary, _ = made
    ids = vocabulary.encode("a red \ud83d ring")
    assert ids == vocabulary.encode("a red \ufffd ring")
    assert vocabulary.coverage("a \udcff").known > 0
    assert vocabulary.encode("a \ud83d\udd34") == vocabulary.encode("a \U0001f534")  # a pair that JSON spelled out


@pytest.mark.parametrize("char", ["\u2028", "\u0085", "\x0b", "\x1c", "\x0c", "\xa0"])
def test_only_line_feeds_end_the_lines_of_a_word_list(tmp_path: Path, char: str) -> None:
    (tmp_path / "words.txt").write_bytes(f"\ufeff<pad>\r\n<unk>\r\ndog\nice{char}cream\ncat\nzebra\n".encode())
    vocabulary = WordVocabulary.read(tmp_path / "words.txt")
    assert vocabulary.encode("dog cat zebra") == [2, 4, 5]
    assert len(vocabulary) == 6


def test_a_word_list_with_two_forms_of_a_word_keeps_its_ids(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<pad>\n<unk>\ncaf\u00e9\ncafe\u0301\nred\n", encoding="utf-8")
    assert WordVocabulary.read(tmp_path / "words.txt").encode("cafe\u0301 red") == [2, 4]


def test_sentencepiece_leaves_nothing_out() -> None:
    texts = [*TEXTS, "naïve café"]
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        vocabulary = SentencePieceVocabulary.train(texts, 60, folder)
        assert 1 not in vocabulary.encode("naïve café")  # 1 is unknown


def test_a_missing_vocabulary_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vatt vocabulary MANIFEST --output"):
        load_vocabulary(tmp_path)


def test_no_text_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no text"):
        make_vocabulary(["", "  "], tmp_path)


def test_long_texts_are_not_left_out_of_the_vocabulary(tmp_path: Path) -> None:
    """A row of timed words is one long text, beyond what SentencePiece takes at once."""
    long = "alpha gamma " * 800
    vocabulary = SentencePieceVocabulary.train([long, *TEXTS], 80, tmp_path)
    assert len(vocabulary.encode("alpha gamma")) <= 3
    assert 1 not in vocabulary.encode("alpha gamma")  # unknown


def test_too_few_pieces_for_the_alphabet_are_refused(tmp_path: Path) -> None:
    texts = ["".join(map(chr, range(0x4E00 + i, 0x4E00 + i + 20))) for i in range(0, 700, 10)] * 3
    with pytest.raises(InputError, match=r"cannot make 64 pieces \(--size\) of 710 different characters"):
        SentencePieceVocabulary.train(texts, 64, tmp_path)


def test_a_small_corpus_is_spelt_in_whole_words(tmp_path: Path) -> None:
    vocabulary = SentencePieceVocabulary.train(TEXTS, 200, tmp_path)
    assert len(vocabulary.encode("a red ring moves left")) == 5


def test_a_file_of_words_numbers_them_by_their_lines(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("<pad>\n<s>\n</s>\n<unk>\nred\nring\n")
    vocabulary = WordVocabulary.read(tmp_path / "words.txt")
    assert vocabulary.encode("A red RING!") == [3, 4, 5]
    assert vocabulary.decode([3, 4, 0]) == "<unk> red"
    assert len(vocabulary) == 6
    vocabulary.save(tmp_path / "saved")
    assert load_vocabulary(tmp_path / "saved").encode("a red ring") == [3, 4, 5]
    (tmp_path / "words.txt").write_text("0 <pad>\n1 <unk>\n2 red\n")
    assert WordVocabulary.read(tmp_path / "words.txt").encode("a re_d") == [1, 2]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("red\n<unk>\n", "line 1 must be <pad>, not 'red'"),
        ("<pad>\nred\n", "one line must be <unk>, not 0"),
        ("<pad>\n<unk>\nred\nred\n", "words.txt: the word 'red' occurs twice"),
        ("", "not 'nothing'"),
        ("[PAD]\n[UNK]\nplay\n##ing\n", "'##ing' is a piece of a word; make this one with --kind huggingface"),
    ],
)
def test_a_file_that_is_no_vocabulary_is_refused(tmp_path: Path, lines: str, says: str) -> None:
    (tmp_path / "words.txt").write_text(lines)
    with pytest.raises(InputError, match=says):
        WordVocabulary.read(tmp_path / "words.txt")
