"""Numbers as people say them, and commands as they can be typed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_COMMAND = re.compile(r"\bbatchgen (?=-|([a-z]+)\b)")


def typed(text: str) -> str:
    """`text` with its commands as the program was called: `python cli.py status` for `batchgen status` in a clone."""
    if Path(sys.argv[0]).name != "cli.py":
        return text
    from batchgen.cli import COMMANDS

    return _COMMAND.sub(lambda found: found[0] if found[1] and found[1] not in COMMANDS else "python cli.py ", text)


def counted(number: int, noun: str) -> str:
    """`1 batch`, `2 batches`, `12,000 requests`."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{ending}"
