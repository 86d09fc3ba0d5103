"""Numbers as people say them, and commands as they can be typed."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

# The modules of batchgen/cli/commands/ and their commands, in the order in which a run uses them.
COMMAND_MODULES = {
    "run": ("prepare", "estimate", "submit", "collect", "run", "status", "receipt"),
    "dataset": ("verify", "report", "export"),
    "maintenance": ("retry", "cancel", "clean", "switch", "rebuild", "doctor"),
    "service": ("serve", "demo"),
}
COMMANDS = {name: module for module, names in COMMAND_MODULES.items() for name in names}
_COMMAND = re.compile(r"\bbatchgen (?=-|([a-z]+)\b)")


def typed(text: str) -> str:
    """`text` with its commands as the program was called: `python cli.py --root DIR status` for `batchgen status` in a
    clone, on a run that is elsewhere.
    """
    program, root = "python cli.py " if Path(sys.argv[0]).name == "cli.py" else "batchgen ", _root(sys.argv[1:])
    if not root and program == "batchgen ":
        return text

    def called(found: re.Match[str]) -> str:
        if found[1] and found[1] not in COMMANDS:
            return found[0]
        return f"{program}{root if found[1] else ''}"

    return _COMMAND.sub(called, text)


def _root(arguments: Sequence[str]) -> str:
    """The option that named the root, as it can be typed again; nothing where none did."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--root":
            return f"--root {shlex.quote(value if equals else ''.join(arguments[at + 1 : at + 2]))} "
    return ""


def counted(number: int, noun: str) -> str:
    """`1 batch`, `2 batches`, `12,000 requests`."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{ending}"
