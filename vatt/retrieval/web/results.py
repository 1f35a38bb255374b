"""Results of a query as HTML, and the style and the script of the search page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from vatt.retrieval.results import Result
from vatt.retrieval.web.clips import MAX_CLIP_S
from vatt.retrieval.web.library import Library
from vatt.retrieval.web.messages import shortened

STRIP = 3  # thumbnails of a result
STYLE = """
.results {display: grid; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); gap: 1rem;
    align-items: start}
.result {border: 1px solid #8884; border-radius: 8px; overflow: hidden; padding-bottom: .6rem}
.result .strip {display: flex; gap: 2px; width: 100%; padding: 0; border: 0; background: #8882; cursor: pointer;
    min-height: 3rem; align-items: center; justify-content: center; color: inherit; font-size: .9rem}
.result .strip img {width: 33.33%; aspect-ratio: 1; object-fit: cover; min-width: 0}
.result .strip.none {cursor: default; min-height: 6rem; opacity: .8}
.result video {width: 100%; height: 14rem; display: block; background: #000}
.result video.audio {height: 4rem}
.result video[hidden] {display: none}
.result p {margin: .4rem .8rem 0; overflow-wrap: anywhere; font-size: .9rem}
.result .score {opacity: .7}
.note {margin: .2rem 0 .8rem; opacity: .85; overflow-wrap: anywhere}
.error {opacity: 1; border-left: 4px solid #d33; padding: .3rem .7rem}
"""
# A click on the thumbnails replaces them by the player. Files that the browser cannot play are transcoded; if that
# fails, the reason is shown. The token is removed from the address bar.
SCRIPT = """
const play = player => player.play().catch(() => {});  // the listener for errors handles them
document.addEventListener("click", event => {
  const strip = event.target.closest(".result button.strip");
  if (!strip) return;
  const player = strip.nextElementSibling;
  player.hidden = false; play(player); strip.style.display = "none";
});
const isFile = player => player.matches?.(".result video") && player.src.includes("/media/");
function transcode(player) { player.src = player.src.replace("/media/", "/clip/").replace("#", "?"); play(player); }
async function explain(player) {
  const response = await fetch(player.src, {headers: {Range: "bytes=0-0"}}).catch(() => null);
  if (response?.ok && !player.dataset.retried) { player.dataset.retried = true; player.load(); play(player); return; }
  let text = response ? await response.text() : "The server cannot be reached.";
  try { text = JSON.parse(text).detail; } catch {}
  const note = document.createElement("p");
  note.className = "note error";
  note.textContent = response?.ok ? "This browser cannot play MP4 files with H.264 and AAC." : text;
  player.replaceWith(note);
}
document.addEventListener("error", event => {
  if (isFile(event.target)) transcode(event.target);
  else if (event.target.matches?.(".result video")) explain(event.target);
}, true);
document.addEventListener("loadedmetadata", event => {
  const player = event.target;
  if (isFile(player) && player.matches(".frames") && !player.videoWidth) transcode(player);  // only its audio is played
}, true);
const url = new URL(location.href);
if (url.searchParams.has("token")) { url.searchParams.delete("token"); history.replaceState(null, "", url); }
"""


def results(library: Library, hits: Sequence[Result], notes: Sequence[str] = ()) -> str:
    """Return results as HTML, with notes and the number of missing files above them.

    Args:
        library: Index and media files.
        hits: Results, best first.
        notes: Sentences to show above the results.
    """
    problems = [library.problem(library.numbers[hit.path]) for hit in hits]
    counts = Counter(problem for problem in problems if problem is not None)
    if counts:
        reasons = ", ".join(f"{problem} ({count})" for problem, count in counts.items())
        notes = [*notes, f"{counts.total()} of {len(hits)} results cannot be shown: {reasons}."]
    captions = library.captions([hit for hit in hits if not hit.text])
    cards = [
        card(library, hit, problem, captions.get((hit.id, library.numbers[hit.path]), ()))
        for hit, problem in zip(hits, problems, strict=True)
    ]
    head = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    return head + (f'<div class="results">{"".join(cards)}</div>' if cards else "")


def card(library: Library, hit: Result, problem: str | None = None, captions: Sequence[str] = ()) -> str:
    """Return one result as HTML.

    Args:
        library: Index and media files.
        hit: The result.
        problem: Why the file cannot be shown.
        captions: Captions of the clip.
    """
    number = library.numbers[hit.path]
    has_frames = number in library.with_frames
    times_s = np.linspace(hit.start_s, hit.end_s, STRIP + 2)[1:-1]
    images = "".join(f'<img loading="lazy" alt="" src="frame/{number}?time_s={time_s:.2f}">' for time_s in times_s)
    delivery = None if problem else library.delivery(number)
    preview = images if has_frames else "♪ audio"
    if problem or delivery is None:
        top = f'<div class="strip none">{escape(problem or "")}{"" if problem else preview}</div>'
    else:
        mark = "#" if delivery == "media" else "?"  # the player seeks in a file; a clip is only the segment
        source = f"{delivery}/{number}" + (f"{mark}t={hit.start_s:.3f},{hit.end_s:.3f}" if hit.has_span else "")
        top = (
            f'<button class="strip" title="Play">{preview}</button><video controls playsinline hidden preload="none" '
            f'class="{"frames" if has_frames else "audio"}" src="{source}"></video>'
        )
    texts = [shortened(hit.text)] if hit.text else captions
    name, clip = library.name(hit.path), library.short(hit.id)
    facts = [f"{hit.start_s:.1f} to {hit.end_s:.1f} s"] if hit.has_span else []
    if delivery == "clip" and not 0 < hit.end_s - hit.start_s <= MAX_CLIP_S:
        facts.append(f"at most {MAX_CLIP_S:g} s are played")
    facts.append(f"score {hit.score:.3f}")
    if clip not in (name, Path(name).stem):
        facts.append(escape(shortened(clip, 120)))
    quoted = "".join(f'<p class="caption">“{escape(text)}”</p>' for text in texts)
    return (
        f'<div class="result">{top}<p><b>{hit.rank}. {escape(shortened(name, 120))}</b></p>{quoted}'
        f'<p class="score">{" · ".join(facts)}</p></div>'
    )
