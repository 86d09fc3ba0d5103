"""Request lines in bulk: what is the same in every line is encoded once, and only keys and texts are filled in. Pure.

A form is learnt from a provider's own codec: a dialogue of marks is encoded, and the line is cut at the marks. Texts
are escaped all at once, by the same encoder, so that the lines are byte for byte those that the codec writes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from batchgen.core.json_template import KEY_MARK, MARKS, Mould, items, marks, mould
from batchgen.core.jsonl import LINE_ENDS, one_line
from batchgen.core.prompts import Prompt
from batchgen.core.text_features import Features, features, features_of

_ASCII = bytes(range(0x80))


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
    fenced = any(found[1] for found in MARKS.finditer(line))
    return Form(mould(line), fenced, _told(asked, texts, fenced=fenced), asked.system)


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
    return items(_one_line(orjson.dumps(texts, option=orjson.OPT_INDENT_2))), features_of(said)


def _fenced(texts: list[str]) -> tuple[list[bytes], Features]:
    """Each text as a string of JSON within a string of JSON, without the outer quotation marks."""
    inner = orjson.dumps(texts, option=orjson.OPT_INDENT_2)
    # A string of JSON holds nothing else that a second escaping would change; the line feeds between items stay.
    pieces = items(_one_line(inner.replace(b"\\", rb"\\").replace(b'"', rb"\"")))
    return pieces, features_of(orjson.dumps(texts)[1:-1]).plus(Features(punctuation=1), 1 - len(texts))  # the commas


def _one_line(encoded: bytes) -> bytes:
    """Rare characters are looked for among those beyond ASCII, which are few."""
    beyond = encoded.translate(None, _ASCII)
    return one_line(encoded, [end for end in LINE_ENDS if end.encode() in beyond])
