"""``vatt embed``, ``vatt index`` and ``vatt search``: files to vectors, vectors to an index, questions to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from vatt.cli.commands import print_lines, print_table, printable
from vatt.cli.events import print_events
from vatt.cli.ranges import Count, CountOrZero, Port, Positive
from vatt.errors import InputError
from vatt.retrieval.web.hosts import bound_socket, host_name

SHOWN = 5  # maximum number of printed directories


def embed(
    path: str,
    model: str,
    output: str,
    split: str | None = None,
    hop_s: Positive | None = None,
    batch_size: Count = 32,
    num_workers: CountOrZero = 2,
    decoder: Literal["auto", "pyav", "decord", "torchcodec"] = "auto",
    device: str | None = None,
    windows: Count | None = None,
    overwrite: bool = False,
    devices: Count = 1,
    nodes: Count = 1,
    part: str = "1/1",
    shard_clips: Count = 512,
    modalities: list[Literal["video", "audio", "text"]] | None = None,
) -> int:
    """Turn videos, sounds and texts into vectors. What was stopped is gone on with.

    Exit status: 0 if every file was read whole, 1 if some were not or only in part (they are named), 2 for wrong
    input.

    Args:
        path: a folder of media, one media file, a pattern of such in quotes ("clips/**/*.mp4"), or a manifest.
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
        modalities: [video,audio,text] or some of them; all that the model takes unless given.
    """
    from tqdm import tqdm

    # Shown before PyTorch is imported and the model is loaded, which take seconds.
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"
    bar = tqdm(desc="loading the model", unit="clip", disable=None if is_first else True)

    from vatt.datasets.folders import summarize
    from vatt.retrieval.embeddings import embed as run

    found = re.fullmatch(r"(\d+)/(\d+)", part)
    if found is None:
        raise InputError(f"--part is one of so many, as 3/8, not {part}")
    try:
        report = run(
            path, model, output, split, hop_s, batch_size, num_workers, decoder, device, windows, overwrite, devices,
            nodes, (int(found[1]), int(found[2])), shard_clips, modalities, bar,
        )  # fmt: skip
    except BaseException:
        bar.leave = False
        raise
    finally:
        bar.close()
    if not report.first:
        return 0
    print_events(report.events, output)
    print_lines(summarize(path))
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

    Exit status: 0, 1 if no clip matches --remove, 2 for invalid input.

    Args:
        sources: folders made by vatt embed with the same model, or indexes. The index of --output alone is changed as
            the other options say.
        output: folder that gets the index.
        kind: flat compares with every vector, hnsw walks a graph, ivfpq looks into clusters of compressed vectors and
            compares the best exactly; auto takes flat while that is fast enough.
        add: to the index that is in the folder, in place of making it anew; clips that it has already are replaced.
        remove: Pattern of the absolute paths, or of the ids, of clips to remove (* and ?).
        compact: build it anew from what was not removed or replaced.
    """
    from vatt.locks import DirectoryLock
    from vatt.retrieval.index import Index

    changes: list[str] = []
    notice = None
    same = [Path(source).resolve() for source in sources] == [Path(output).resolve()]
    # An update reads the index, changes it and writes it back. The lock is held for all of that.
    changed = (same or add) and Path(output).is_dir()
    with DirectoryLock(output) if changed else nullcontext():
        if same:
            result = Index.load(output)
        elif add:
            result = Index.load(output, mapped=False)
            changes.append(f"added {result.add(sources)} vectors")
        else:
            result = Index.build(sources, kind)
        if result.replaced:
            changes.append(f"replaced {result.replaced} vectors of the same clips (same file, and same segment or id)")
        if remove is not None:
            removed = result.remove(remove)
            changes.append(f"removed {removed} vectors")
            if not removed:
                examples = f"; {result.example_paths()}" if len(result) else ": the index is empty"
                notice = f"the pattern {remove!r} of --remove matches no path or id{examples}"
        if compact:
            result.compact(kind)
        result.save(output, locked=changed)
    print("\n".join(changes), end="\n" if changes else "")
    parts = ", ".join(f"{len(part)} {' in '.join(name)} ({part.kind})" for name, part in sorted(result.parts.items()))
    print(f"index: {output} ({parts if len(result) else 'empty'}; model {result.model})")
    roots = result.declared_roots
    more = f" and {len(roots) - SHOWN} more" if len(roots) > SHOWN else ""
    print(f"media: {', '.join(map(printable, roots[:SHOWN]))}{more}")
    if notice:
        print(f"vatt index: {printable(notice)}", file=sys.stderr)
    return 1 if notice else 0


def search(
    index: str,
    query: str | None = None,
    k: Count = 10,
    model: str | None = None,
    video: str | None = None,
    audio: str | None = None,
    answers: Literal["video", "audio", "text"] = "video",
    path: str | None = None,
    where: str | None = None,
    spans: bool = True,
    sheet: str | None = None,
    play: str | None = None,
    right_id: str | None = None,
    format: Literal["table", "json"] = "table",
    verify: bool = True,
) -> int:
    """Find videos, sounds or captions by words, a video, a sound, or several of them together.

    Exit status: 0, 1 if there are no results, files of results are missing, or the contact sheet or the playlist leaves
    out results, 2 for invalid input.

    Args:
        index: folder of an index.
        query: what to look for, in words.
        k: number of answers.
        model: folder of the model, if it is not where it was when the index was built.
        video: a file, or a URL, to which answers are alike.
        audio: the same, of which the sound counts.
        answers: what is looked for.
        path: Pattern of the absolute paths of files to include (* and ?).
        where: only clips of whose manifest a column has a value, as x_shape=ring, split=test or labels=dog.
        spans: windows that follow each other are one answer.
        sheet: PNG file that gets a contact sheet of the answers.
        play: Output file of an M3U playlist with the segments of the results (for VLC).
        right_id: id of the clip that the query describes, to be framed in the sheet.
        format: of what is printed.
        verify: Compare the SHA-256 checksums of all index files before the search. Reads each file once.
    """
    from vatt.retrieval.search import opened
    from vatt.retrieval.search import search as run
    from vatt.retrieval.sheet import check_playlist, check_sheet, draw_sheet, write_playlist

    for check, file in ((check_sheet, sheet), (check_playlist, play)):
        if file:
            check(file)
    opened_index, opened_model = opened(index, model, verify)
    hits = run(opened_index, query, k, opened_model, video, audio, answers, path, where, spans)
    asked = [f"“{query}”"] if query else []
    title = " + ".join(asked + [Path(file).name for file in (video, audio) if file])
    if format == "json":
        print(json.dumps([hit.to_dict() for hit in hits], ensure_ascii=False, indent=1))
    else:
        columns = ("text",) if answers == "text" else ()
        rows = [
            (
                hit.rank,
                f"{hit.score:.3f}",
                f"{hit.start_s:.2f}–{hit.end_s:.2f}" if hit.has_span else "",
                f"{hit.path} (missing)" if hit.missing else hit.path,
                *((hit.text,) if columns else ()),
            )
            for hit in hits
        ]
        if rows:
            print_table(title, ("rank", "score", "span (s)", "file", *columns), rows)
    problems = draw_sheet(title, hits, sheet, right_id) if sheet else dict[str, str]()
    left_out = write_playlist(hits, play) if play else Counter[str]()
    if format == "table":
        if sheet:
            print(f"contact sheet: {sheet}")
        if play:
            print(f"playlist: {play}")
    notices = [*hits.notices, hits.describe_missing()]
    notices += [f"contact sheet: no frames of {file}: {reason}" for file, reason in problems.items()]
    for reason, count in left_out.items():
        notices.append(f"playlist: {count} of {len(hits)} results {'is' if count == 1 else 'are'} {reason}: left out")
    for notice in filter(None, notices):
        print(f"vatt search: {printable(notice)}", file=sys.stderr)
    return 1 if hits.missing or problems or left_out or not hits else 0


def app(
    index: str,
    model: str | None = None,
    host: str = "127.0.0.1",
    port: Port = 7860,
    allowed_hosts: list[str] | None = None,
    token: str | None = None,
    max_upload_mb: Positive = 200.0,
    query_limit_s: Positive = 30.0,
    roots: list[str] | None = None,
    urls: bool = False,
) -> int:
    """Serve a web page that searches an index.

    Media files of the index are served to everyone who can reach the address. 127.0.0.1 is this machine only.

    Args:
        index: Directory of an index.
        model: Directory of the model. Default: the directory that is recorded in the index.
        host: Address to listen on. 0.0.0.0 means all addresses of this machine.
        port: Port to listen on.
        allowed_hosts: Other host names under which the page may be opened, e.g. [videos.example.org]. The address of
            the connection is always allowed.
        token: Secret that visitors must send, in the URL (?token=...) or as a bearer token. "auto" generates one.
            Default: the environment variable VATT_APP_TOKEN.
        max_upload_mb: Maximum size of an uploaded example, in MB.
        query_limit_s: Maximum duration of one query, in seconds.
        roots: Directories whose files may be shown. Default: the embedded directories.
        urls: Open media URLs that are in the index.
    """
    from vatt.retrieval.app import make_app

    token = token or os.environ.get("VATT_APP_TOKEN") or None
    token = secrets.token_urlsafe(32) if token == "auto" else token
    address = bound_socket(host, port)
    name, port = host_name(host, address.getsockname()[0]), address.getsockname()[1]
    is_wildcard = name in ("0.0.0.0", "::")
    names = [*(allowed_hosts or ()), *([] if is_wildcard else [name])]
    served = make_app(index, model, names, token, max_upload_mb, query_limit_s, roots, urls)
    from vatt.retrieval.web.hosts import is_loopback
    from vatt.retrieval.web.server import PageServer

    shown = "127.0.0.1" if is_wildcard else f"[{name}]" if ":" in name else name
    print(f"http://{shown}:{port}/{f'?token={token}' if token else ''}    (stop with Ctrl-C)", flush=True)
    library = served.state.library
    print("serving media in: " + (", ".join(map(printable, library.roots)) or "no directory"), flush=True)
    if outside := library.describe_outside():
        print(f"warning: {printable(outside)}", file=sys.stderr, flush=True)
    if not is_loopback(address.getsockname()[0]):
        advice = (
            "Put a TLS proxy in front: the token is sent unencrypted"
            if token
            else "Set --token auto, or listen on 127.0.0.1"
        )
        print(
            f"warning: everyone who can reach {name}, port {port}, can search the index and see its media"
            f"{' with the token' if token else ''}. {advice}.",
            file=sys.stderr,
            flush=True,
        )
    PageServer(served, served.state.clips).run(sockets=[address])
    return 0
