"""The commands that are plain functions: their parameters are the options, their docstrings the help."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from vatt.cli.ranges import Count, CountOrZero, Seed
from vatt.errors import InputError


def synth(
    output: str,
    clips_per_combination: Count = 3,
    num_test: CountOrZero = 216,
    num_val: CountOrZero = 60,
    num_train: CountOrZero | None = None,
    seed: Seed = 0,
    num_workers: Count | None = None,
) -> int:
    """Write the demonstration corpus: drawn shapes that move, with a sound that follows them, as MP4 files.

    Args:
        output: folder that gets clips/ and manifest.jsonl.
        clips_per_combination: training clips of each combination of colour, shape, motion and speed.
        num_test: combinations kept for the test, one clip each.
        num_val: combinations kept for validation, one clip each.
        num_train: combinations to train on; all the others unless given.
        seed: of everything.
        num_workers: processes; one per CPU unless given.
    """
    from vatt.preparation.synthetic import Plan, synthesize

    plan = Plan(clips_per_combination, num_test, num_val, num_train, seed)
    manifest = synthesize(output, plan, num_workers)
    print(f"corpus: {manifest}")
    return 0


def vocabulary(
    manifest: str,
    output: str,
    kind: Literal["sentencepiece", "words", "list", "huggingface"] = "sentencepiece",
    size: Count = 8000,
    split: str | None = None,
    tokenizer: str | None = None,
) -> int:
    """Make a vocabulary from the texts of a manifest.

    Args:
        manifest: CSV, JSONL or Parquet file; for kind list, the list.
        output: folder that gets the vocabulary.
        kind: SentencePiece pieces or whole words of the texts; a finished list with one word a line, as the official
            code has (2^16 words); or a finished Hugging Face tokenizer.
        size: number of ids aimed at.
        split: take the texts of this split only.
        tokenizer: hub name or folder, for kind huggingface.
    """
    from vatt.datasets.manifest import read_manifest
    from vatt.datasets.text.vocabularies import WordVocabulary, make_vocabulary

    if kind == "list":
        listed = WordVocabulary.read(manifest)
        listed.save(output)
        print(f"vocabulary: {output} ({len(listed)} ids of {manifest})")
        return 0
    clips = read_manifest(manifest, split=split, check_files=False)
    texts = [text.text for clip in clips for text in clip.texts]
    texts += [" ".join(word.text for word in clip.words) for clip in clips if clip.words]
    if kind != "huggingface" and not any(map(str.strip, texts)):
        from vatt.datasets.reports import TextCounts

        counts = TextCounts()
        counts.add(clips, None)
        raise InputError(f"{manifest} has no text (columns text, texts, words){counts.describe_columns()}")
    made = make_vocabulary(texts, output, kind, size, tokenizer)
    print(f"vocabulary: {output} ({kind}, {len(made)} ids from {len(texts)} texts)")
    return 0


def retrieve(
    embeddings: str,
    output: str | None = None,
    protocol: Literal["manifest", "first-caption", "youcook2", "msrvtt-1ka", "msrvtt-full"] = "manifest",
) -> int:
    """Measure retrieval in both directions on embedded clips.

    Args:
        embeddings: folder made by vatt embed.
        output: JSON file that gets the numbers; a Markdown page is written beside it.
        protocol: Retrieval protocol. "manifest" ranks the clips of any manifest by the cosine of their mean window
            embedding, with all captions as queries; "first-caption" uses the first caption of each clip. The
            benchmark protocols need embeddings made with --windows 4 and the split of the benchmark, and report how
            many of their clips are present.
    """
    from vatt.evaluation.protocols import evaluate
    from vatt.evaluation.report import config_hash, write_report

    report = evaluate(embeddings, protocol)
    print_retrieval(report)
    print(f"{report['about']}: {report['clips_present']} of {report['clips_expected']} clips")
    for direction in ("text_to_video", "audio_to_video"):
        side, found = direction.partition("_")[0], report.get(direction, {})
        if found.get("missing"):
            print(f"clips without {side} or without video, compared in neither direction: {found['missing']}")
        if found.get("same_text"):
            print(f"captions that another clip has too: {found['same_text']}")
    for name in ("clips_with_fewer_windows", "clips_with_fewer_captions"):
        if report.get(name):
            print(f"{name.replace('_', ' ')} than the protocol asks for: {report[name]}")
    if output:
        how = how_made(embeddings)
        how["configuration"] = config_hash({"protocol": protocol, **how})
        page = write_report(output, f"Retrieval, {protocol}", report, how)
        print(f"report: {output}    {page}")
    return 0


def how_made(embeddings: str) -> dict[str, object]:
    """What is known of embeddings: where from, by which model, and how that was trained."""
    from vatt.retrieval.store import read_notes
    from vatt.training.history import history_of

    notes = read_notes(embeddings)
    training = history_of(notes.get("model_folder")) or {}
    told = {name: training.get(name, "not known") for name in ("seed", "steps", "minutes")}
    return {"source": notes.get("source"), "split": notes.get("split"), **told, "training": training or "not known"}


def print_retrieval(report: dict[str, object]) -> None:
    """The table of a retrieval report, with chance beside every number."""
    rows = []
    for direction, found in report.items():
        if not isinstance(found, dict) or "R@1" not in found:
            continue
        cells = [f"{found[key]:.1f} ({found['chance'][key]:.1f})" for key in ("R@1", "R@5", "R@10")]
        cells.append(f"{found['MedR']:g} ({found['chance']['MedR']:g})")
        rows.append((direction.replace("_to_", " → "), *cells, found["gallery"]))
    print_table("Retrieval, percent (chance level in parentheses)", ("", "R@1", "R@5", "R@10", "MedR", "of"), rows)


def print_lines(lines: Iterable[str]) -> None:
    """Print lines that may contain file names."""
    for line in lines:
        print(printable(line))


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(printable(title)), title_justify="left")
    for column in columns:
        left = column in ("file", "")
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=column == "")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # brackets in file names are not markup
    Console().print(table)


def printable(value: object) -> str:
    """Return a value as text with control characters escaped. File names may contain terminal control codes."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in str(value))
