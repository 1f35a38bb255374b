from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY, read_number
from tests.media.test_audio import RATE, TONE, write_wav
from vatt.datasets.clip_reader import ClipReader
from vatt.datasets.loading.sampling import seeded
from vatt.datasets.readers import AudioReader, TextReader, VideoReader, join_words, nearest
from vatt.datasets.text.vocabularies import WordVocabulary
from vatt.datasets.transforms import Augment
from vatt.media.decoding import open_media
from vatt.structures import Clip, ClipFormat, TimedText


def test_frames_come_at_the_formats_rate(video_file: Path) -> None:
    spec = ClipFormat(num_frames=4, fps=5.0, size=48, sample_rate=8000)
    with open_media(video_file) as media:
        video, video_valid = VideoReader(ClipFormat(4, 5.0, 48, 8000, crop_box=(0.0, 0.0, 1.0, 1.0)))(media, 1.0)
        audio, audio_valid, _ = AudioReader(spec)(media, 1.0)
    assert video_valid
    assert audio_valid
    assert video.shape == (4, 3, 48, 48)
    assert audio.shape == (6400,)
    assert video.dtype == torch.uint8
    assert video.min() < 10
    assert video.max() > 245


def test_sound_played_faster_is_higher_and_spans_more(sound_file: Path) -> None:
    """Beeps of 1 kHz at 0.5, 1.0 and 1.5 s: at 1.25 times the speed of 1.25 kHz, and at 0.4, 0.8 and 1.2 s."""
    spec = ClipFormat(num_frames=4, fps=2.5, size=32, sample_rate=16_000)
    with open_media(sound_file) as media:
        usual, *_ = AudioReader(spec)(media, 0.0, augment=Augment(), generator=seeded(0))
        fast, valid, _ = AudioReader(spec)(media, 0.0, augment=Augment(speed=(1.25, 1.25)), generator=seeded(0))
        turned, *_ = AudioReader(spec)(media, 0.0, augment=Augment(turn=1.0), generator=seeded(0))
    assert valid
    assert fast.shape == usual.shape == (25_600,)
    torch.testing.assert_close(turned, -usual)
    for samples, pitch, starts in ((usual, 1000, (0.5, 1.0, 1.5)), (fast, 1250, (0.4, 0.8, 1.2))):
        spectrum = torch.fft.rfft(samples).abs()
        assert spectrum.argmax().item() * 16_000 / len(samples) == pytest.approx(pitch, rel=0.01)
        loud = samples.abs().unfold(0, 160, 160).amax(dim=1) > 0.1
        begins = [i / 100 for i in range(1, len(loud)) if loud[i] and not loud[i - 1]]
        assert begins == pytest.approx(starts, abs=0.02)


@pytest.mark.parametrize("cache", [None, "cache"])
def test_clipped_and_cancelled_audio_is_reported(tmp_path: Path, cache: str | None) -> None:
    """Floats that hold integers, and stereo in opposite phase: by default, and with the options that handle them."""
    spec = ClipFormat(num_frames=2, fps=4.0, size=32, sample_rate=RATE)
    loud = write_wav(tmp_path / "loud.wav", (20_000 * TONE).astype(np.float32))
    opposite = write_wav(tmp_path / "opposite.wav", np.outer(TONE, [0.5, -0.5]).astype(np.float32))
    folder = None if cache is None else str(tmp_path / cache)

    def read(path: Path, **options: str) -> tuple[torch.Tensor, list[tuple[str, str, str]]]:
        reader, clip = ClipReader(replace(spec, **options), cache=folder, modalities=("audio",)), Clip("a", str(path))
        with ExitStack() as stack:
            sample = reader.read(clip, reader.open(clip, stack), 0.25)
        assert sample["audio_valid"]
        return sample["audio"], [(e["kind"], e["path"], e["reason"]) for e in sample["events"]]

    tone = torch.from_numpy(TONE[RATE // 4 :][: RATE // 2]).float()
    audio, [event] = read(loud)
    torch.testing.assert_close(audio, (20_000 * tone).clamp(-1, 1))
    assert event[:2] == ("clipped", str(loud))
    assert "with a peak of 20000, and are clipped (audio_overflow: scale" in event[2]
    audio, events = read(loud, audio_overflow="scale")
    torch.testing.assert_close(audio, tone / tone.abs().max())
    assert events == []
    audio, [event] = read(opposite)
    assert not audio.any()
    assert event[:2] == ("cancelled", str(opposite))
    assert "audio_downmix: first" in event[2]
    audio, events = read(opposite, audio_downmix="first")
    torch.testing.assert_close(audio, 0.5 * tone, atol=1e-4, rtol=0)
    assert events == []


def test_a_crop_box_keeps_the_size(video_file: Path) -> None:
    whole = ClipFormat(num_frames=4, fps=5.0, size=32)
    part = ClipFormat(num_frames=4, fps=5.0, size=32, crop_box=(0.25, 0.0, 0.75, 0.5))
    with open_media(video_file) as media:
        assert VideoReader(whole)(media, 0.0)[0].shape == (4, 3, 32, 32)
        assert VideoReader(part)(media, 0.0)[0].shape == (4, 3, 32, 32)


def test_the_asked_frames_are_read(video_file: Path) -> None:
    with open_media(video_file) as media:
        frames = media.frames([1.0 + i / 5.0 for i in range(4)]).frames
    assert [read_number(frame) for frame in frames] == [25, 30, 35, 40]


def test_what_is_missing_is_zero_and_not_valid(silent_file: Path, sound_file: Path) -> None:
    with open_media(silent_file) as media:
        audio, audio_valid, _ = AudioReader(TINY)(media, 0.0)
    with open_media(sound_file) as media:
        video, video_valid = VideoReader(TINY)(media, 0.0)
    assert not audio_valid
    assert not video_valid
    assert audio.abs().max() == 0
    assert video.abs().max() == 0
    assert video.shape == (8, 3, 32, 32)


def test_what_a_track_does_not_reach_is_not_valid(uneven_files: tuple[Path, Path]) -> None:
    """Windows of 1 s, every half second: those of which half exists count."""
    valid = []
    for path in uneven_files:
        with open_media(path) as media:
            starts = [i / 2 for i in range(7)]
            valid.append([VideoReader(TINY)(media, start_s)[1] for start_s in starts])
            valid.append([AudioReader(TINY)(media, start_s)[1] for start_s in starts])
    short, whole = [True, True] + [False] * 5, [True] * 7
    assert valid == [short, whole, whole, short]


def test_nothing_after_the_end_of_a_clip_is_read(video_file: Path) -> None:
    """A clip from 0.5 to 1.0 s in a window of 1.6 s: the last frame is repeated, and audio after 1.0 s is zero."""
    spec = ClipFormat(num_frames=8, fps=5.0, size=48, sample_rate=8000)
    with open_media(video_file) as media:
        video, video_valid = VideoReader(spec)(media, 0.5, 1.0)
        expected = media.frames([0.5, 0.7, 0.9, 0.99]).frames
        audio, audio_valid, _ = AudioReader(spec)(media, 0.5, 1.0)
    assert [read_number(frame) for frame in expected] == [12, 17, 22, 24]
    still = video[3:]
    assert torch.equal(still, still[:1].expand_as(still))
    assert not torch.equal(video[2], video[3])
    assert audio[:4000].abs().max() > 0.2
    assert audio[4000:].abs().max() == 0
    assert video_valid
    assert audio_valid  # at least half of the part inside the clip has audio


TEXTS = (
    TimedText("a red ring", 0.0, 1.0),
    TimedText("a blue bar", 2.0, 3.0),
    TimedText("moves left", 4.0, 5.0),
    TimedText("moves right"),
)


def texts(ids: torch.Tensor, vocabulary: WordVocabulary) -> list[str]:
    return [vocabulary.decode(row.tolist()) for row in ids]


def test_the_nearest_texts_in_time_are_taken(vocabulary: WordVocabulary) -> None:
    reader = TextReader(ClipFormat(num_frames=8, fps=8.0, num_words=6, num_texts=3), vocabulary)
    ids, valid, cut = reader(Clip(id="x", path="x", texts=TEXTS), start_s=3.9)  # the window's middle is 4.4 s
    assert texts(ids, vocabulary) == ["moves right", "moves left", "a blue bar"]
    assert valid.tolist() == [True] * 3
    assert cut == 0


def test_missing_texts_are_padded_and_not_valid(vocabulary: WordVocabulary) -> None:
    reader = TextReader(ClipFormat(num_words=6, num_texts=5), vocabulary)
    ids, valid, _ = reader(Clip(id="x", path="x", texts=TEXTS[:2]), 0.0)
    assert valid.tolist() == [True, True, False, False, False]
    assert ids[2:].eq(vocabulary.pad_id).all()


def test_long_texts_are_cut_and_counted(vocabulary: WordVocabulary) -> None:
    reader = TextReader(ClipFormat(num_words=3, num_texts=2), vocabulary)
    ids, _, cut = reader(Clip(id="x", path="x", texts=(TimedText("a red ring moves left"), TimedText("a bar"))), 0.0)
    assert cut == 1
    assert vocabulary.decode(ids[0].tolist()) == "a red ring"


def test_of_equally_near_texts_a_random_choice_is_made(vocabulary: WordVocabulary) -> None:
    reader = TextReader(ClipFormat(num_words=6, num_texts=1), vocabulary)
    clip = Clip(id="x", path="x", texts=(TimedText("red"), TimedText("green"), TimedText("blue")))
    chosen = {texts(reader(clip, 0.0, seeded(i))[0], vocabulary)[0] for i in range(30)}
    assert chosen == {"red", "green", "blue"}
    assert texts(reader(clip, 0.0)[0], vocabulary) == ["red"]


def words(count: int) -> tuple[TimedText, ...]:
    return tuple(TimedText(f"w{i}", float(i), i + 0.5) for i in range(count))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (9, 4), (10, 3), (7, 1)])
def test_joined_words_overlap_and_leave_none_out(count: int, size: int) -> None:
    groups = join_words(words(count), size)
    said = [group.text.split() for group in groups]
    assert {word for group in said for word in group} == {f"w{i}" for i in range(count)}
    assert max(map(len, said)) <= size
    for group, text in zip(said, groups, strict=True):
        assert (text.start_s, text.end_s) == (float(group[0][1:]), int(group[-1][1:]) + 0.5)


def test_timed_words_are_texts_where_there_are_no_captions(vocabulary: WordVocabulary) -> None:
    spoken = tuple(TimedText(word, i * 1.0, i + 0.9) for i, word in enumerate("a red ring moves left".split()))
    spec = ClipFormat(num_frames=8, fps=8.0, num_words=2, num_texts=1)
    reader = TextReader(spec, vocabulary)
    assert texts(reader(Clip(id="x", path="x", words=spoken), 3.5)[0], vocabulary) == ["moves left"]
    both = Clip(id="x", path="x", words=spoken, texts=(TimedText("blue"),))
    assert [t.text for t in reader.candidates(both)] == ["blue"]
    assert len(TextReader(spec, vocabulary, words_per_text=2).candidates(both)) == 5
    assert TextReader(spec, vocabulary, words_per_text=0).candidates(Clip(id="x", path="x", words=spoken)) == []


def test_nearest_is_by_the_middle() -> None:
    order = nearest([TimedText("far", 0, 8), TimedText("near", 8, 12), TimedText("always")], centre_s=9.0)
    assert [text.text for text in order] == ["always", "near", "far"]
