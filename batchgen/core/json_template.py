"""JSON lines of one shape: the line is encoded once, and only keys and texts are filled in. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

_MARK = "batchgen-mark-%d-"
KEY_MARK = "batchgen-mark-key-"
# The key as it is, a text as a string of JSON, or as one within a string of JSON.
MARKS = re.compile(rb'batchgen-mark-key-|(\\?)"batchgen-mark-(\d+)-\1"')
_BETWEEN = b",\n  "  # what orjson, indenting, puts between the items of a list; no string holds a raw line feed
_HEAD, _TAIL = b"[\n  ", b"\n]"


class Mould(NamedTuple):
    """A line with holes: `constants` around them, and what fills each: a text's place in the dialogue, None a key."""

    constants: tuple[bytes, ...]
    holes: tuple[int | None, ...]

    @property
    def shown(self) -> range:
        """The places of the dialogue that the lines may show: from the first to the last that they do show."""
        places = [place for place in self.holes if place is not None]
        return range(min(places), max(places) + 1)

    def lines(self, keys: Sequence[bytes], pieces: Mapping[int, Sequence[bytes]]) -> bytes:
        """The lines of `keys`, one behind the other; `pieces` has each place's texts, encoded."""
        width = 2 * len(self.holes) + 1
        parts: list[bytes] = [b""] * (width * len(keys))
        for order, constant in enumerate(self.constants):
            parts[2 * order :: width] = [constant] * len(keys)
        for order, hole in enumerate(self.holes):
            parts[2 * order + 1 :: width] = keys if hole is None else pieces[hole]
        return b"".join(parts)


def marks(places: Iterable[int]) -> list[str]:
    """What stands for the texts at `places` in a line that is to become a mould."""
    return [_MARK % place for place in places]


def mould(line: bytes) -> Mould:
    """A line of JSON, cut at its marks."""
    constants: list[bytes] = []
    holes: list[int | None] = []
    end = 0
    for found in MARKS.finditer(line):
        constants.append(line[end : found.start()])
        holes.append(int(found[2]) if found[2] else None)
        end = found.end()
    return Mould((*constants, line[end:] + b"\n"), tuple(holes))


def strings(texts: list[str]) -> list[bytes]:
    """Each text as a string of JSON."""
    return items(orjson.dumps(texts, option=orjson.OPT_INDENT_2))


def items(encoded: bytes) -> list[bytes]:
    return encoded[len(_HEAD) : -len(_TAIL)].split(_BETWEEN)
