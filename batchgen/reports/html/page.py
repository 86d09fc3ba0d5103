"""Write facts, charts and conversations as one HTML file that needs no other file.

Texts of conversations are compressed and in base64, and the script shows them as text nodes. Only the conversations to
read first are also in the markup, for browsers without JavaScript. The template escapes these texts and all other
values from outside (models, errors, reasons). The content security policy allows only the page's own script and style,
and no network request.
"""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from batchgen import __version__
from batchgen.dataset.quality.flags import FLAGS, JUDGED_FLAGS, LABELS
from batchgen.ledger.rows import Batch
from batchgen.ledger.status import timestamp
from batchgen.reports.html.audit_values import WINNER_WORDS
from batchgen.reports.html.charts import RenderedCharts
from batchgen.reports.html.conversations import TextStatistics
from batchgen.reports.html.facts import RunFacts, StepFacts, median_and_maximum
from batchgen.reports.html.lengths import EXACT_UP_TO, has_rounded_lengths, quantiles
from batchgen.reports.html.sample import PER_CLASS
from batchgen.reports.html.summary import Summary, summarize
from batchgen.reports.html.visible_text import visible
from batchgen.reports.status_text import duration

ASSETS = Path(__file__).with_name("assets")
DASH = "\N{EN DASH}"
MAX_PLAIN_CHARACTERS = 3_000  # of a text in the markup, where an invisible character takes 60 bytes


def render_page(
    facts: RunFacts,
    texts: TextStatistics,
    bill: Mapping[str, Any],
    drawings: RenderedCharts,
    audit: Mapping[str, Any] | None = None,
) -> Iterator[bytes]:
    """Yield the page in pieces. `bill` comes from `facts.receipt_table`, `audit` from `audit_values`."""
    style, script = (Markup((ASSETS / name).read_text("utf-8")) for name in ("page.css", "page.js"))  # noqa: S704 - ours
    marker = "@packed@"
    html = (
        _environment()
        .from_string((ASSETS / "page.html.j2").read_text("utf-8"))
        .render(
            **template_values(facts, texts, bill, drawings, audit),
            style=style,
            script=script,
            policy=content_security_policy(style, script),
            packed=marker,
        )
    )
    before, _, after = html.rpartition(marker)  # the last one: only our own script comes after it
    yield from (before.encode(), pack_conversations(texts), after.encode())


def content_security_policy(style: str, script: str) -> str:
    """Return a policy that allows this script and this style, and no network request."""
    hashes = [b64encode(sha256(text.encode()).digest()).decode() for text in (script, style)]
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}';"
        " base-uri 'none'; form-action 'none'"
    )


def pack_conversations(texts: TextStatistics) -> bytes:
    """Pack the conversations for the page's script: JSON, compressed by zlib, in base64."""
    names = orjson.dumps([[label, FLAGS[LABELS[label][0]].meaning] for label in texts.names])
    squeeze = zlib.compressobj(6)
    winners = orjson.dumps(list(WINNER_WORDS.items()))
    parts = [squeeze.compress(b'{"labels":' + names + b',"winners":' + winners + b',"items":[')]
    for at, record in enumerate(texts.shown):
        parts.append(squeeze.compress(b"," + record if at else record))
    return b64encode(b"".join([*parts, squeeze.compress(b"]}"), squeeze.flush()]))


def _environment() -> Environment:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        usd=format_usd,
        whole=format_integer,
        share=format_share,
        lasted=format_duration,
        each=format_small_usd,
        words=humanize,
        visible=visible,
        drawn=Markup,  # charts contain no text from outside
    )
    return environment


# ---------------------------------------------------------------- words


def format_usd(value: float | None) -> str:
    """Format USD: four digits below $10, two above. A sum above 0 is never shown as 0."""
    if value is None:
        return "unknown"
    if 0 < value < 0.00005:  # noqa: PLR2004
        return "< $0.0001"
    return f"${value:,.4f}" if abs(value) < 10 else f"${value:,.2f}"  # noqa: PLR2004


def format_small_usd(value: float | None) -> str:
    """Format USD that one conversation costs: six digits below 10 cents."""
    return f"${value:.6f}" if value is not None and 0.000001 <= value < 0.1 else format_usd(value)  # noqa: PLR2004


def format_integer(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def format_share(value: float | None) -> str:
    """Format a share in percent. A share above 0 is never shown as 0 %, one below 1 never as 100 %."""
    if value is None:
        return DASH
    percent = 100 * value
    if 0 < percent < 0.1:  # noqa: PLR2004
        return "< 0.1 %"
    if 99.9 < percent < 100:  # noqa: PLR2004
        return "> 99.9 %"
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def format_duration(value: float | None) -> str:
    return DASH if value is None else duration(value)


def humanize(name: str) -> str:
    return name.replace("_", " ").replace(":", " · ")


# ---------------------------------------------------------------- what the template shows


def template_values(
    facts: RunFacts,
    texts: TextStatistics,
    bill: Mapping[str, Any],
    drawings: RenderedCharts,
    audit: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Return the values of the template, except style, script, policy and packed texts."""
    answer, summary = facts.answer, summarize(facts, texts, bill)
    return {
        "answer": answer,
        "summary": summary,
        "headline": _headline("Finished" if answer["finished"] else "Running", summary),
        "lead": _lead(facts, judged=bool(audit and audit["judged"])),
        "audit": audit,
        "first": [_to_read(orjson.loads(texts.shown[at]), texts.names) for at in texts.first],
        "steps": facts.steps,
        "flow": drawings.flow,
        "win_rates": drawings.audit,
        "winner_words": WINNER_WORDS,
        "bill": {**bill, "chart": drawings.money},
        "timeline": drawings.timeline,
        "turnaround": list(map(_turnaround, filter(_sent, facts.steps))),
        "ledger": [_ledger_row(batch) for batch in reversed(facts.newest)],
        "ledger_total": facts.batches,
        "lengths": drawings.lengths,
        "quantiles": list(quantiles(texts.lengths)),
        "rounded": format_integer(EXACT_UP_TO) if has_rounded_lengths(texts.lengths) else "",
        "rounds": range(1, answer["rounds"] + 1),
        "quality": _quality(texts, answer["rounds"]),
        "shown_about": "Answer and correction are side by side. Red words (dotted underline) are only in the answer,"
        " green words (full underline) are only in the correction.",
        "partial": _partial(answer["conversations"], len(texts.shown)),
        "foot": f"Written by batchgen {__version__} on {_format_time(facts.now)}"
        " from the store of the run. This page makes no network requests.",
    }


def _headline(state: str, summary: Summary) -> str:
    share = format_share(summary.good / summary.conversations if summary.conversations else None)
    good, total = format_integer(summary.good), format_integer(summary.conversations)
    return f"{state}: {good} of {total} conversations ({share}) {'is' if summary.good == 1 else 'are'} good"


def _lead(facts: RunFacts, *, judged: bool) -> str:
    apart = " but those of the audit, which judges a sample" if judged else ""
    good = f"A good conversation is complete and has no quality flag{apart}."
    if facts.began is None:
        return f"{good} Prepared, nothing submitted yet. As of {_format_time(facts.now)}."
    end = facts.last or facts.now
    return (
        f"{good} {facts.answer['rounds']} rounds; first submitted {_format_time(facts.began)}, newest result"
        f" {duration(max(end - facts.began, 0))} later. As of {_format_time(facts.now)}."
    )


def _to_read(record: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return a conversation that the page names to be read first, from its record (`conversation_record`).

    Its `labels` are without JUDGED_FLAGS, which follow from its `winners`.
    """
    turns = [
        {
            "question": question[:MAX_PLAIN_CHARACTERS],
            "answer": _cut(answer),
            "correction": _cut(correction),
            "labels": [names[at] for at in labels],
            "cut": max(len(question), *(len("".join(text)) for text in (answer, correction))) > MAX_PLAIN_CHARACTERS
            or any(cut[:1]),
            "verdict": cut[1] if len(cut) > 1 else None,
        }
        for question, answer, correction, labels, *cut in record["t"]
    ]
    labels = dict.fromkeys(label for turn in turns for label in turn["labels"] if label not in JUDGED_FLAGS)
    winners = dict.fromkeys(turn["verdict"][0] for turn in turns if turn["verdict"])
    return {"id": record["i"], "labels": list(labels), "winners": list(winners), "turns": turns}


def _cut(segments: Sequence[str]) -> list[str]:
    """Cut a text in segments after MAX_PLAIN_CHARACTERS."""
    found, room = [], MAX_PLAIN_CHARACTERS
    for segment in segments:
        found.append(segment[:room])
        room -= len(found[-1])
    return found


def _format_time(seconds: float | None) -> str:
    """Format seconds since 1970 as `2026-01-31 12:00 UTC`."""
    return (timestamp(seconds) or DASH).replace("T", " ").removesuffix("Z")[:16] + " UTC"


def _sent(step: StepFacts) -> bool:
    return step.batches > 0


def _turnaround(step: StepFacts) -> dict[str, Any]:
    times = [value for spans in (step.waited, step.ran) for value in median_and_maximum(spans) or (None, None)]
    return {"name": step.name, "batches": step.batches, "times": times}


def _ledger_row(batch: Batch) -> dict[str, Any]:
    begin, middle, end = batch.job.submitted_at, batch.job.started_at, batch.job.ended_at
    return {
        "name": batch.name,
        "requests": batch.requests,
        "state": batch.state,
        "error": batch.job.error,
        "model": batch.model,
        "submitted": DASH if begin is None else _format_time(begin).removesuffix(" UTC"),
        "waited": None if begin is None or middle is None else max(middle - begin, 0),
        "ran": None if middle is None or end is None else max(end - middle, 0),
    }


def _quality(texts: TextStatistics, rounds: int) -> dict[str, Any]:
    turns = texts.complete * rounds
    rows: list[dict[str, Any]] = []
    for label in sorted(LABELS, key=lambda label: -sum(texts.labels[label, at + 1] for at in range(rounds))):
        counts = [texts.labels[label, number] for number in range(1, rounds + 1)]
        if sum(counts):
            meaning = FLAGS[LABELS[label][0]].meaning
            row = {"label": label, "meaning": meaning, "turns": sum(counts), "share": sum(counts) / turns}
            rows.append({**row, "by_round": counts})
    return {
        "rows": rows,
        "turns": turns,
        "complete": texts.complete,
        "empty": "No flag was raised." if texts.complete else "No conversation is complete yet.",
    }


def _partial(total: int, shown: int) -> str:
    if shown == total:
        return ""
    return (
        f"This page shows {format_integer(shown)} of {format_integer(total)}"
        f" conversations, sampled by id: those to read first, up to {PER_CLASS} of every flag, verdict, rejection"
        " reason and number of rounds, then any others. All figures above are about all conversations."
    )
