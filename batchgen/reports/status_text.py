"""`status` and `receipt` as plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.core.wording import as_invoked, pluralize
from batchgen.ledger.rows import LIVE_STATES

# What a stage writes, as the beginning of a line.
_TEXTS = {"question": "questions", "answer": "answers", "correction": "corrections", "audit": "verdicts"}
_AUDIT_COLUMNS = (("ready", 10), ("in_flight", 11), ("done", 10), ("rejected", 10))


def headline(answer: Mapping[str, Any]) -> str:
    """Return the state of the run in one sentence."""
    if not answer["conversations"]:
        return as_invoked("Nothing is prepared here yet. Start with: batchgen prepare --input aligner/aligner-20K")
    left = answer["rejected"]
    return (
        f"{answer['complete']:,} of {pluralize(answer['conversations'], 'conversation')}"
        f" {'has' if answer['conversations'] == 1 else 'have'} {answer['rounds']} rounds,"
        f" {left:,} {'was' if left == 1 else 'were'} rejected" + (": finished." if answer["finished"] else ".")
    )


def status_text(answer: Mapping[str, Any]) -> str:
    """Return `status` as plain text."""
    if not answer["conversations"]:
        return headline(answer)
    lines = [
        headline(answer),
        "",
        f"{'step':<20}{'ready':>10}{'in flight':>11}{'done':>10}{'rejected':>10}",
    ]
    for row in answer["steps"]:
        name = f"round {row['round']} {row['stage']}"
        lines.append(f"{name:<20}{row['ready']:>10,}{row['in_flight']:>11,}{row['done']:>10,}{row['rejected']:>10,}")
    if audit := answer["audit"]:
        counts = "".join(f"{audit[name]:>{width},}" for name, width in _AUDIT_COLUMNS)
        lines.append(f"{'audit (verdicts)':<20}{counts}")
    models = answer["stage_models"].items()
    writers = [f"{_TEXTS[stage]} by {one['model']} ({one['provider']})" for stage, one in models]
    lines += ["", *writers] if writers else []
    live = [batch for batch in answer["batches"] if batch["state"] in LIVE_STATES]
    lines += ["", "batches in flight:"] if live else []
    for batch in live:
        lines.append(
            f"  {batch['batch']}  {pluralize(batch['requests'], 'request')}  {batch['provider']}"
            f"  {batch['remote_state'] or batch['state']}  {duration(batch['age_seconds'])}"
        )
    lines += [f"waiting: {wait['for']}: {wait['reason']}" for wait in answer["waiting"]]
    return "\n".join([*lines, "", *cost_lines(answer["cost"])])


def cost_lines(cost: Mapping[str, Any]) -> list[str]:
    """Return the lines about cost. Sums are marked "at least" if a price is unknown."""
    unpriced = cost["unpriced_requests"]
    least = "at least " if unpriced else ""
    text = (
        f"spent {least}${cost['spent_usd']:,.4f}, reserved {least}${cost['reserved_usd']:,.4f} for what is in flight"
        f" (estimated {least}${cost['estimated_usd']:,.4f} for everything submitted so far)"
    )
    lines = [text]
    if unpriced:
        names = ", ".join(cost["unpriced_models"])
        lines.append(
            f"{pluralize(unpriced, 'request')} to {names} have no known price: set one in batchgen.toml"
            f' ([prices."MODEL"] input = ..., output = ...) to include them in the cost.'
        )
    return lines


def duration(seconds: float) -> str:
    """Format a duration in its largest fitting unit: 40 s, 12 min, 3.5 h, 2.1 d."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if size > 60 else f"{seconds / size:.0f} {unit}"  # noqa: PLR2004
    return f"{seconds:.0f} s"


# ---------------------------------------------------------------- the receipt


def receipt_text(found: Mapping[str, Any]) -> str:
    """Return `receipt` as plain text. Columns whose total is 0 are left out, except the most important."""
    named = [(f"round {row['round']} {row['stage']}", row) for row in found["steps"]]
    rows = [("step", None), *named, ("all", found["total"])]
    lines = [f"{name:<18}" for name, _ in rows]
    for heading, width, key in _COLUMNS:
        if found["total"][key] or key in _ALWAYS_SHOWN:
            lines = [
                line + f"{heading if row is None else _cell(row, key):>{width}}"
                for line, (_, row) in zip(lines, rows, strict=True)
            ]
    lines += ["", *_writer_lines(found["steps"]), ""]
    for row in found["models"]:
        lines.append(f"{row['provider']} {row['model']}: {_paid_text(row, '$')}")
        if row["rate"] is None:
            lines.append(
                f"  price unknown; set it in batchgen.toml:"
                f' [prices."{row["provider"]}:{row["model"]}"] input = ..., output = ...'
            )
    return "\n".join(lines)


_COLUMNS = (
    ("estimated $", 13, "estimated_usd"),
    ("paid $", 13, "usd"),
    ("failed $", 10, "failed_usd"),
    ("late $", 10, "superseded_usd"),
    ("tokens in", 14, "input_tokens"),
    ("cached", 14, "cached_tokens"),
    ("tokens out", 13, "output_tokens"),
    ("thoughts", 13, "thought_tokens"),
)
_ALWAYS_SHOWN = ("estimated_usd", "usd", "input_tokens", "output_tokens")


def _writer_lines(steps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for each stage and model: which rounds it wrote."""
    rounds: dict[tuple[str, str], list[str]] = {}
    for row in steps:
        for model in row["models"]:
            rounds.setdefault((row["stage"], model), []).append(str(row["round"]))
    return [f"{_TEXTS[stage]} of round {', '.join(numbers)} by {model}" for (stage, model), numbers in rounds.items()]


def _cell(row: Mapping[str, Any], key: str) -> str:
    if key == "usd":
        return _paid_text(row)
    return f"{row[key]:,.4f}" if key.endswith("_usd") else f"{row[key]:,}"


def _paid_text(row: Mapping[str, Any], sign: str = "") -> str:
    return f"{'>= ' if row['at_least'] else ''}{sign}{row['usd']:,.4f}"
