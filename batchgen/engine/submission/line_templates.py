"""Encode many request lines at once: the parts that all lines share are encoded only once. Pure.

A template is made with the provider's own codec: it encodes a dialogue of placeholders, and the line is cut at these.
All texts are escaped by one call of the same JSON encoder, so that the lines are byte for byte those of the codec.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import orjson

from batchgen.core.json_template import (
    ECHO_PLACEHOLDER,
    ECHO_SLOT,
    KEY_PLACEHOLDER,
    PLACEHOLDER_PATTERN,
    LineTemplate,
    parse_line_template,
    split_encoded_list,
    text_placeholders,
)
from batchgen.core.jsonl import LINE_ENDS, escape_line_ends
from batchgen.core.prompts import Prompt
from batchgen.core.text_features import TextFeatures, count_features, count_utf8_features

_ASCII = bytes(range(0x80))


class RequestTemplate(NamedTuple):
    """The template for the request lines of one step.

    `nested`: the texts are JSON inside JSON. `fixed_features` are the text features of one request's messages without
    the texts; `system` is its system text.
    """

    line_template: LineTemplate
    nested: bool
    fixed_features: TextFeatures
    system: str


def make_request_template(
    places: int, ask: Callable[[Sequence[str]], Prompt], encode: Callable[[str, Prompt], bytes]
) -> RequestTemplate:
    """Return the template for dialogues of `places` texts. `ask` builds the prompt, `encode` is the codec."""
    texts = text_placeholders(range(places))
    asked = ask(texts)
    line = encode(KEY_PLACEHOLDER, asked._replace(echo=ECHO_PLACEHOLDER if asked.echo else ""))
    nested = any(found[2] for found in PLACEHOLDER_PATTERN.finditer(line))
    return RequestTemplate(
        parse_line_template(line), nested, _fixed_features(asked, texts, nested=nested), asked.system
    )


def _fixed_features(asked: Prompt, placeholders: Sequence[str], *, nested: bool) -> TextFeatures:
    """Return the text features of a prompt without the `placeholders`."""
    said = " ".join(message.text for message in asked.messages)
    found = count_features(said)
    for placeholder in placeholders:
        shown = f'"{placeholder}"' if nested else placeholder
        if shown in said:
            found = found.plus(count_features(shown), -1)
    return found


def render_requests(
    template: RequestTemplate, keys: Sequence[bytes], texts: list[str], echoes: Sequence[bytes]
) -> tuple[bytes, TextFeatures]:
    """Return the lines of requests with `keys`, concatenated, and the text features of all their messages.

    `texts` are the texts at `template.line_template.shown` of each dialogue, none of them empty. `echoes` are those of
    the requests; they are used if the template has a place for them.
    """
    shown = template.line_template.shown
    wanted = sorted(place - shown.start for place in template.line_template.text_slots)
    if len(wanted) < len(shown):
        kept = [texts[place :: len(shown)] for place in wanted]
        texts = [text for dialogue in zip(*kept, strict=True) for text in dialogue]
    pieces, said = _encode_nested_texts(texts) if template.nested else _encode_texts(texts)
    columns = {shown.start + place: pieces[order :: len(wanted)] for order, place in enumerate(wanted)}
    lines = template.line_template.lines(keys, {**columns, ECHO_SLOT: echoes})
    return lines, said.plus(template.fixed_features, len(keys))


def _encode_texts(texts: list[str]) -> tuple[list[bytes], TextFeatures]:
    """Return each text as a JSON string on one line, and the features of all texts."""
    said = b" ".join([text.encode() for text in texts])
    return split_encoded_list(_one_line(orjson.dumps(texts, option=orjson.OPT_INDENT_2))), count_utf8_features(said)


def _encode_nested_texts(texts: list[str]) -> tuple[list[bytes], TextFeatures]:
    """Return each text as a JSON string inside a JSON string, without the outer quotation marks, and the features."""
    inner = orjson.dumps(texts, option=orjson.OPT_INDENT_2)
    # A second escaping changes only backslashes and quotation marks. The line feeds between the items stay.
    pieces = split_encoded_list(_one_line(inner.replace(b"\\", rb"\\").replace(b'"', rb"\"")))
    return pieces, count_utf8_features(orjson.dumps(texts)[1:-1]).plus(
        TextFeatures(punctuation=1), 1 - len(texts)
    )  # the commas


def _one_line(encoded: bytes) -> bytes:
    """Escape Unicode line separators. Only the few characters that are not ASCII are searched for them."""
    beyond = encoded.translate(None, _ASCII)
    return escape_line_ends(encoded, [end for end in LINE_ENDS if end.encode() in beyond])
