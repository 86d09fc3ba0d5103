"""Numbers as people say them."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """`1 batch`, `2 batches`, `0 requests`."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number} {noun}{ending}"
