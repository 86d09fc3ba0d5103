"""The receipt as the page shows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchgen.core.dialogue import Stage, Step

TOKENS = ("input_tokens", "cached_tokens", "output_tokens", "thought_tokens")


def bill(receipt: Mapping[str, Any]) -> dict[str, Any]:
    """Rows and total for the page, of a receipt (`receipt.receipt`), and whether anything was paid."""
    rows = [_row(str(Step(step["round"], Stage(step["stage"]))), step) for step in receipt["steps"]]
    unpriced = [model["model"] for model in receipt["models"] if model["rate"] is None]
    return {
        "rows": rows,
        "total": _row("All", receipt["total"]),
        "paid": any(row["usd"] for row in rows),
        "unpriced": unpriced,
    }


def _row(name: str, part: Mapping[str, Any]) -> dict[str, Any]:
    """`wasted` is what was paid for replies that no turn came from; `at_least` says that a price is unknown."""
    return {
        "step": name,
        "estimated": part["estimated_usd"],
        "usd": part["usd"],
        "accepted": part["accepted_usd"],
        "wasted": part["failed_usd"] + part["superseded_usd"],
        "at_least": "≥ " if part["at_least"] else "",
        **{name: part[name] for name in TOKENS},
    }
