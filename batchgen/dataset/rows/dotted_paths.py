"""Read the option `--columns`, and find a value in a row by a dotted path such as rejected.-1.content."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress

import orjson

from batchgen.core.dialogue import Turn
from batchgen.core.errors import InputError

FIELDS = Turn._fields  # question, answer, correction
EXAMPLE = "--columns question=prompt,answer=rejected.-1.content,correction=chosen.-1.content"
BETWEEN_COLUMNS = re.compile(rf",(?=\s*(?:{'|'.join(FIELDS)})\s*=)")  # a name may contain a comma
INDEX = re.compile(r"-?[0-9]{1,9}")
USUAL_NAMES = {  # names that other datasets use, the most frequent first
    "question": ("question", "prompt", "instruction", "query", "input", "user"),
    "answer": ("answer", "rejected", "response", "output", "completion"),
    "correction": ("correction", "chosen", "corrected", "revision", "revised", "target"),
}
TEXT_KEYS = ("content", "value", "text")  # the text of a message
MOST_SHOWN = 60  # characters of a name that is suggested
MOST_NESTED = 4  # parts of a suggested path


def parse_columns(given: str) -> dict[str, str]:
    """Return the path of each field. A field that is not given is the column of its own name. Raises InputError."""
    paths: dict[str, str] = {}
    for part in BETWEEN_COLUMNS.split(given):
        field, sign, path = (each.strip() for each in part.partition("="))
        if field not in FIELDS or not sign or not path:
            raise InputError(
                f"--columns: {part.strip()!r} is not FIELD=PATH. FIELD is question, answer or correction.",
                do=f"For example: {EXAMPLE}",
            )
        if field in paths:
            raise InputError(f"--columns names {field} twice.", do=f"For example: {EXAMPLE}")
        paths[field] = path
    return {field: paths.get(field, field) for field in FIELDS}


def find(value: object, path: str) -> object:
    """Return what is at a path in a row, None if nothing is.

    A part is a key of an object, or the index of a list (-1 is the last element). A key that contains dots is found
    first: the longest key that exists is taken. If the path goes on inside a text, as in a cell of a CSV, the text is
    read as JSON.
    """
    parts = path.split(".")
    while parts:
        if isinstance(value, str):
            value = decode_json(value)
        if isinstance(value, dict):
            keys = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            key = next((key for key in keys if key in value), None)
            if key is None:
                return None
            value, parts = value[key], parts[key.count(".") + 1 :]
        elif isinstance(value, list) and INDEX.fullmatch(parts[0]):
            index = int(parts.pop(0))
            if not -len(value) <= index < len(value):
                return None
            value = value[index]
        else:
            return None
    return value


def decode_json(text: str) -> object:
    """Return the value of a JSON text, None if it is not JSON."""
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(text)
    return None


def column_of(path: str, names: Iterable[str]) -> str | None:
    """Return the column in which a path begins: the longest of the names that fits, None if no name fits."""
    return max((name for name in names if path == name or path.startswith(f"{name}.")), key=len, default=None)


def suggest_columns(row: Mapping[str, object]) -> str:
    """Return a `--columns` option for a row, to copy and change: usual names first, then the columns that are left."""
    row = {
        name: value for name, value in row.items() if name.strip() and name.isprintable() and len(name) <= MOST_SHOWN
    }
    names = {name.lower(): name for name in row}
    taken = {
        field: next((names[usual] for usual in usual_names if usual in names), None)
        for field, usual_names in USUAL_NAMES.items()
    }
    left = [name for name in row if name not in taken.values()]
    columns = {field: name or (left.pop(0) if left else "COLUMN") for field, name in taken.items()}
    given = ",".join(f"{field}={_path_to_text(name, row.get(name))}" for field, name in columns.items())
    return f"--columns {shlex.quote(given)}"


def _path_to_text(path: str, value: object) -> str:
    """Return the path of a text within a value: the last element of a list, the usual key of a message."""
    for _ in range(MOST_NESTED):
        if isinstance(value, list) and value:
            path, value = f"{path}.-1", value[-1]
        elif isinstance(value, dict) and (key := next((key for key in TEXT_KEYS if key in value), None)):
            path, value = f"{path}.{key}", value[key]
    return path
