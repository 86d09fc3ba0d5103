"""JSON lines of one shape: one line is encoded with placeholders, then keys and texts are filled in for all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

PLACEHOLDER_PREFIX = "batchgen-mark-"
_TEXT_PLACEHOLDER = "batchgen-mark-%d-"
KEY_PLACEHOLDER = "batchgen-mark-key-"
ECHO_PLACEHOLDER = "batchgen-mark-echo-"
ECHO_SLOT = -1  # in place of a text's position
# The key; the echo; or a text as a JSON string, or as a JSON string within a JSON string.
PLACEHOLDER_PATTERN = re.compile(rb'batchgen-mark-key-|(batchgen-mark-echo-)|(\\?)"batchgen-mark-(\d+)-\2"')
_ITEM_SEPARATOR = b",\n  "  # orjson's separator of list items when it indents; no JSON string holds a raw line feed
_LIST_START, _LIST_END = b"[\n  ", b"\n]"


class LineTemplate(NamedTuple):
    """A JSON line that is cut at its placeholders.

    `constants` are the pieces between them. `slots` says what fills each: the position of a text, ECHO_SLOT
    for the echo, or None for the key.
    """

    constants: tuple[bytes, ...]
    slots: tuple[int | None, ...]

    @property
    def shown(self) -> range:
        """The positions from the first to the last text that the lines show."""
        places = self.text_slots
        return range(min(places), max(places) + 1)

    @property
    def text_slots(self) -> list[int]:
        """The positions of the texts, in the order of the line."""
        return [place for place in self.slots if place is not None and place != ECHO_SLOT]

    def lines(self, keys: Sequence[bytes], pieces: Mapping[int, Sequence[bytes]]) -> bytes:
        """Return the lines for `keys`, joined. `pieces` maps each position to the encoded texts of all lines, and
        ECHO_SLOT to their echoes.
        """
        width = 2 * len(self.slots) + 1
        parts: list[bytes] = [b""] * (width * len(keys))
        for order, constant in enumerate(self.constants):
            parts[2 * order :: width] = [constant] * len(keys)
        for order, slot in enumerate(self.slots):
            parts[2 * order + 1 :: width] = keys if slot is None else pieces[slot]
        return b"".join(parts)


def text_placeholders(places: Iterable[int]) -> list[str]:
    """Return placeholders for the texts at these positions."""
    return [_TEXT_PLACEHOLDER % place for place in places]


def parse_line_template(line: bytes) -> LineTemplate:
    """Cut a JSON line at its placeholders."""
    constants: list[bytes] = []
    slots: list[int | None] = []
    end = 0
    for found in PLACEHOLDER_PATTERN.finditer(line):
        constants.append(line[end : found.start()])
        slots.append(ECHO_SLOT if found[1] else int(found[3]) if found[3] else None)
        end = found.end()
    return LineTemplate((*constants, line[end:] + b"\n"), tuple(slots))


def encode_strings(texts: list[str]) -> list[bytes]:
    """Encode each text as a JSON string."""
    return split_encoded_list(orjson.dumps(texts, option=orjson.OPT_INDENT_2))


def split_encoded_list(encoded: bytes) -> list[bytes]:
    """Split an encoded and indented JSON list of strings into its encoded strings."""
    return encoded[len(_LIST_START) : -len(_LIST_END)].split(_ITEM_SEPARATOR)
