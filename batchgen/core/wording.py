"""Wording for people: plurals, and commands as the user can type them."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

# The modules of batchgen/cli/commands/ and their commands, in the order in which a run uses them.
COMMAND_MODULES = {
    "run": ("prepare", "prompts", "estimate", "submit", "collect", "run", "status", "receipt"),
    "dataset": ("verify", "audit", "report", "export", "publish"),
    "maintenance": ("retry", "cancel", "clean", "switch", "rebuild", "doctor", "rehearse"),
    "service": ("serve", "demo"),
}
COMMANDS = {name: module for module, names in COMMAND_MODULES.items() for name in names}
_COMMAND = re.compile(r"\bbatchgen (?=-|([a-z]+)\b)")


def program_name() -> str:
    """Return what the user types to start the program: `batchgen`, or `python cli.py` in a clone."""
    return f"python {shlex.quote(sys.argv[0])}" if _in_clone() else "batchgen"


def as_invoked(text: str) -> str:
    """Rewrite the commands in `text` as the program was called, so that they can be copied.

    In a clone, with a run elsewhere, `batchgen status` becomes `python cli.py --root DIR status`. Where `python` is not
    the Python of this program, for example after `make demo`, it becomes `.venv/bin/python cli.py --root DIR status`.
    """
    root = _root_option(sys.argv[1:])
    if not root and not _in_clone():
        return text
    program = f"{_python()} {shlex.quote(sys.argv[0])} " if _in_clone() else "batchgen "

    def called(found: re.Match[str]) -> str:
        if found[1] and found[1] not in COMMANDS:
            return found[0]
        return f"{program}{root if found[1] else ''}"

    return _COMMAND.sub(called, text)


def _in_clone() -> bool:
    return Path(sys.argv[0]).name == "cli.py"


def _python() -> str:
    """Return `python` if this means the running Python here, else its path, from the current folder if it is below."""
    from shutil import which

    running, found = Path(sys.executable), which("python")
    if found and Path(found).parent == running.parent:
        return "python"
    with suppress(FileNotFoundError):  # the current folder was deleted
        here = Path.cwd()
        running = running.relative_to(here) if running.is_relative_to(here) else running
    return shlex.quote(str(running))


def _root_option(arguments: Sequence[str]) -> str:
    """Return the option that names the root as it was typed, "" if there was none."""
    for at, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name == "--root":
            return f"--root {shlex.quote(value if equals else ''.join(arguments[at + 1 : at + 2]))} "
    return ""


def pluralize(number: int, noun: str) -> str:
    """Return number and noun: `1 batch`, `2 batches`, `12,000 requests`."""
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "sh", "s", "x")) else "s"
    return f"{number:,} {noun}{ending}"


def markdown_table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a table in Markdown."""
    lines = [list(head), *(list(map(str, row)) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
