"""The commands that are plain functions: their parameters are the options, their docstrings the help."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from vatt.errors import InputError


def synth(
    output: str,
    clips_per_combination: int = 3,
    num_test: int = 216,
    num_val: int = 60,
    num_train: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
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
    from vatt.datasets.synthetic import Plan, synthesize

    plan = Plan(clips_per_combination, num_test, num_val, num_train, seed)
    manifest = synthesize(output, plan, num_workers)
    print(f"corpus: {manifest}")
    return 0


def vocabulary(
    manifest: str,
    output: str,
    kind: Literal["sentencepiece", "words", "list", "huggingface"] = "sentencepiece",
    size: int = 8000,
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
    from vatt.datasets.text import WordVocabulary, make_vocabulary

    if kind == "list":
        listed = WordVocabulary.read(manifest)
        listed.save(output)
        print(f"vocabulary: {output} ({len(listed)} ids of {manifest})")
        return 0
    clips = read_manifest(manifest, split=split, check_files=False)
    texts = [text.text for clip in clips for text in clip.texts]
    texts += [" ".join(word.text for word in clip.words) for clip in clips if clip.words]
    made = make_vocabulary(texts, output, kind, size, tokenizer)
    print(f"vocabulary: {output} ({kind}, {len(made)} ids from {len(texts)} texts)")
    return 0


def embed(
    path: str,
    model: str,
    output: str,
    split: str | None = None,
    hop_s: float | None = None,
    batch_size: int = 32,
    num_workers: int = 2,
    decoder: Literal["auto", "pyav", "decord", "torchcodec"] = "auto",
    device: str | None = None,
    windows: int | None = None,
    overwrite: bool = False,
    devices: int = 1,
    nodes: int = 1,
    part: str = "1/1",
    shard_clips: int = 512,
) -> int:
    """Turn videos, sounds and texts into vectors. What was stopped is gone on with.

    Exit status: 0 if every file was read whole, 1 if some were not or only in part (they are named), 2 for wrong
    input.

    Args:
        path: a folder of media, one media file, or a manifest.
        model: folder of a trained model.
        output: folder that gets embeddings.parquet, errors.parquet and embeddings.json.
        split: only these rows of a manifest.
        hop_s: distance of the windows in seconds; the model's clip length unless given.
        batch_size: windows at a time.
        num_workers: processes that read.
        decoder: what reads the frames.
        device: cpu, cuda, …; a GPU is used if there is one.
        windows: of each clip, spread over it, in place of --hop_s; the protocols of benchmarks want 4.
        overwrite: delete other embeddings that are in the folder.
        devices: processes (GPUs) on this machine that share the work.
        nodes: machines that do, each with so many devices, started by SLURM or torchrun.
        part: 3/8 does the third of eight parts, in jobs of their own that write into one folder.
        shard_clips: clips of a shard, which is what is lost at most when all is stopped.
    """
    from vatt.datasets.manifest import other_files
    from vatt.retrieval.embeddings import embed as run

    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if found is None:
        raise InputError(f"--part is one of so many, as 3/8, not {part}")
    report = run(
        path, model, output, split, hop_s, batch_size, num_workers, decoder, device, windows, overwrite, devices, nodes,
        (int(found[1]), int(found[2])), shard_clips,
    )  # fmt: skip
    if not report.first:
        return 0
    for event in report.events:
        print(f"{event['kind']}: {event['path']}: {event['reason']}")
    if Path(path).is_dir() and (others := other_files(path)):
        print("not media by their names: " + ", ".join(f"{n} {suffix}" for suffix, n in sorted(others.items())))
    made = f"{report.windows} windows, {report.rows} vectors"
    print(f"embedded {report.embedded} of {report.clips} clips ({made}): {output}")
    if report.missing:
        print(f"{report.missing} shards are still to be written, by other parts; the last one completes the folder")
    return 1 if report.incomplete else 0


def index(
    sources: list[str],
    output: str,
    kind: Literal["auto", "flat", "hnsw", "ivfpq"] = "auto",
    add: bool = False,
    remove: str | None = None,
    compact: bool = False,
) -> int:
    """Build a searchable index (FAISS, cosine), put several together, or change one.

    Args:
        sources: folders made by vatt embed with the same model, or indexes. The index of --output alone is changed as
            the other options say.
        output: folder that gets the index.
        kind: flat compares with every vector, hnsw walks a graph, ivfpq looks into clusters of compressed vectors and
            compares the best exactly; auto takes flat while that is fast enough.
        add: to the index that is in the folder, in place of making it anew; clips that it has already are replaced.
        remove: leave out clips whose path or id matches this pattern (* and ?).
        compact: build it anew from what was not removed or replaced.
    """
    from vatt.retrieval.index import Index

    if [Path(source).resolve() for source in sources] == [Path(output).resolve()]:
        made = Index.load(output)
    elif add:
        made = Index.load(output, mapped=False)
        print(f"added {made.add(sources)} vectors")
    else:
        made = Index.build(sources, kind)
    if remove is not None:
        print(f"removed {made.remove(remove)} vectors")
    if compact:
        made.compact(kind)
    made.save(output)
    parts = ", ".join(f"{len(part)} {' in '.join(name)} ({part.kind})" for name, part in sorted(made.parts.items()))
    print(f"index: {output} ({parts}; model {made.model})")
    return 0


def search(
    index: str,
    query: str,
    k: int = 10,
    model: str | None = None,
    sheet: str | None = None,
    right_id: str | None = None,
    format: Literal["table", "json"] = "table",
) -> int:
    """Find videos by words.

    Args:
        index: folder of an index.
        query: what to look for.
        k: number of answers.
        model: folder of the model, if it is not where it was when the index was built.
        sheet: PNG file that gets a contact sheet of the answers.
        right_id: id of the clip that the query describes, to be framed in the sheet.
        format: of what is printed.
    """
    from vatt.retrieval.search import draw_sheet
    from vatt.retrieval.search import search as run

    hits = run(index, query, k, model)
    if format == "json":
        print(json.dumps([hit.to_dict() for hit in hits], ensure_ascii=False, indent=1))
    else:
        print_table(
            f"“{query}”",
            ("rank", "score", "span (s)", "file"),
            [(hit.rank, f"{hit.score:.3f}", f"{hit.start_s:.2f}–{hit.end_s:.2f}", hit.path) for hit in hits],
        )
    if sheet:
        draw_sheet(query, hits, sheet, right_id)
        print(f"contact sheet: {sheet}")
    return 0


def retrieve(
    embeddings: str,
    output: str | None = None,
    protocol: Literal["manifest", "youcook2", "msrvtt-1ka", "msrvtt-full"] = "manifest",
) -> int:
    """Measure retrieval in both directions on embedded clips.

    Args:
        embeddings: folder made by vatt embed.
        output: JSON file that gets the numbers; a Markdown page is written beside it.
        protocol: what is compared. manifest: the clips of any manifest, one caption and one averaged vector each, by
            cosine. The benchmarks ask for vatt embed --windows 4 and their own split, and say how many of their clips
            were there.
    """
    from vatt.evaluation.protocols import evaluate
    from vatt.evaluation.report import config_hash, write_report

    report = evaluate(embeddings, protocol)
    print_retrieval(report)
    print(f"{report['about']}: {report['clips_present']} of {report['clips_wanted']} clips")
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
    print_table("Retrieval, per cent (in brackets: chance)", ("", "R@1", "R@5", "R@10", "MedR", "of"), rows)


def print_table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        left = column in ("file", "")
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=column == "")
    for row in rows:
        table.add_row(*map(str, row))
    Console().print(table)
