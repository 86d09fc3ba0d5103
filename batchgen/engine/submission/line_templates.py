"""Request lines in bulk: what is the same in every line is encoded once, and only keys and texts are filled in. Pure.

A form is learnt from a provider's own codec: a dialogue of marks is encoded, and the line is cut at the marks. Texts
are escaped all at once, by the same encoder, so that the lines are byte for byte those that the codec writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson

from batchgen.core.prompts import Prompt
from batchgen.core.text_features import Features, features, features_of
from batchgen.providers.jsonl import LINE_ENDS, one_line

_MARK = "batchgen-mark-%d-"
KEY_MARK = "batchgen-mark-key-"
# The key as it is, a text as a string of JSON, or as one within a string of JSON.
_MARKS = re.compile(rb'batchgen-mark-key-|(\\?)"batchgen-mark-(\d+)-\1"')
_BETWEEN = b",\n  "  # what orjson, indenting, puts between the items of a list; no string holds a raw line feed
_HEAD, _TAIL = b"[\n  ", b"\n]"
_ASCII = bytes(range(0x80))


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


class Form(NamedTuple):
    """The request lines of one step. `fenced` texts are JSON within JSON. `told` are the features of what one request's
    messages say besides the texts; `system` is its system text.
    """

    mould: Mould
    fenced: bool
    told: Features
    system: str


def form(places: int, ask: Callable[[Sequence[str]], Prompt], encode: Callable[[str, Prompt], bytes]) -> Form:
    """The form of the requests for dialogues of `places` texts: `ask` says what is asked, `encode` is a codec."""
    texts = marks(range(places))
    asked = ask(texts)
    line = encode(KEY_MARK, asked)
    fenced = any(found[1] for found in _MARKS.finditer(line))
    return Form(mould(line), fenced, _told(asked, texts, fenced=fenced), asked.system)


def marks(places: Iterable[int]) -> list[str]:
    """What stands for the texts at `places` in a line that is to become a mould."""
    return [_MARK % place for place in places]


def mould(line: bytes) -> Mould:
    """A line of JSON, cut at its marks."""
    constants: list[bytes] = []
    holes: list[int | None] = []
    end = 0
    for found in _MARKS.finditer(line):
        constants.append(line[end : found.start()])
        holes.append(int(found[2]) if found[2] else None)
        end = found.end()
    return Mould((*constants, line[end:] + b"\n"), tuple(holes))


def _told(asked: Prompt, marks: Sequence[str], *, fenced: bool) -> Features:
    said = " ".join(message.text for message in asked.messages)
    found = features(said)
    for mark in marks:
        shown = f'"{mark}"' if fenced else mark
        if shown in said:
            found = found.plus(features(shown), -1)
    return found


def fill(form: Form, keys: Sequence[bytes], texts: list[str]) -> tuple[bytes, Features]:
    """The lines of requests with `keys`, one behind the other, and the features of all that their messages say.

    `texts` has the texts at `form.mould.shown` of each dialogue, none of them empty.
    """
    shown = form.mould.shown
    wanted = sorted(place - shown.start for place in form.mould.holes if place is not None)
    if len(wanted) < len(shown):
        kept = [texts[place :: len(shown)] for place in wanted]
        texts = [text for dialogue in zip(*kept, strict=True) for text in dialogue]
    pieces, said = _fenced(texts) if form.fenced else _plain(texts)
    columns = {shown.start + place: pieces[order :: len(wanted)] for order, place in enumerate(wanted)}
    return form.mould.lines(keys, columns), said.plus(form.told, len(keys))


def _plain(texts: list[str]) -> tuple[list[bytes], Features]:
    """Each text as a string of JSON in one line."""
    said = b" ".join([text.encode() for text in texts])
    return _items(_one_line(orjson.dumps(texts, option=orjson.OPT_INDENT_2))), features_of(said)


def strings(texts: list[str]) -> list[bytes]:
    """Each text as a string of JSON."""
    return _items(orjson.dumps(texts, option=orjson.OPT_INDENT_2))


def _items(encoded: bytes) -> list[bytes]:
    return encoded[len(_HEAD) : -len(_TAIL)].split(_BETWEEN)


def _fenced(texts: list[str]) -> tuple[list[bytes], Features]:
    """Each text as a string of JSON within a string of JSON, without the outer quotation marks."""
    inner = orjson.dumps(texts, option=orjson.OPT_INDENT_2)
    # A string of JSON holds nothing else that a second escaping would change; the line feeds between items stay.
    pieces = _items(_one_line(inner.replace(b"\\", rb"\\").replace(b'"', rb"\"")))
    return pieces, features_of(orjson.dumps(texts)[1:-1]).plus(Features(punctuation=1), 1 - len(texts))  # the commas


def _one_line(encoded: bytes) -> bytes:
    """Rare characters are looked for among those beyond ASCII, which are few."""
    beyond = encoded.translate(None, _ASCII)
    return one_line(encoded, [end for end in LINE_ENDS if end.encode() in beyond])
