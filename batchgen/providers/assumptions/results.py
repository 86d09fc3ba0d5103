"""Read the result files of a batch once more, for what a run does not look at: fields, order, echoes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from batchgen.core.dialogue import echo_of, parse_key
from batchgen.core.jsonl import dict_or_empty, split_lines
from batchgen.core.outcomes import Reply
from batchgen.providers.base import ParsedRequest, Provider

MOST_MEMBERS = 80  # names of JSON members that are noted of a row
DEEPEST = 8  # levels of JSON


class ResultRow(NamedTuple):
    """One result row: the reply as a run reads it, its request (None: the key is of no request), and its JSON."""

    reply: Reply
    request: ParsedRequest | None
    value: dict[str, Any]

    @property
    def members(self) -> set[str]:
        """The names of all members, with dots: response.candidates.content."""
        return set(list(_members(self.value))[:MOST_MEMBERS])

    @property
    def usage(self) -> dict[str, Any]:
        """The token counts, as the provider writes them."""
        response = dict_or_empty(self.value.get("response"))
        return dict_or_empty(response.get("usageMetadata") or dict_or_empty(response.get("body")).get("usage"))

    @property
    def own_echo(self) -> str:
        """The echo that the request asked for, "" if it asked for none."""
        parsed = parse_key(self.reply.key)
        return echo_of(parsed.number) if parsed and self.request and self.request.echoes else ""


class BatchRows(NamedTuple):
    """The rows of one batch: its job, the keys of its requests in order, the rows of its files."""

    remote_id: str
    model: str
    keys: Sequence[str]
    rows: Sequence[ResultRow]
    error_rows: int


def read_rows(provider: Provider, remote_id: str, model: str, files: tuple[bytes, bytes, bytes]) -> BatchRows:
    """Read the request, output and error file of a batch (b"": there is none)."""
    requests, output, errors = files
    asked = [parsed for line in split_lines(requests) if (parsed := provider.asked(orjson.loads(line)))]
    by_key = {request.key: request for request in asked}
    lines = [*split_lines(output), *split_lines(errors)]
    rows = [_row(provider, line, by_key) for line in lines]
    return BatchRows(remote_id, model, [request.key for request in asked], rows, len(split_lines(errors)))


def _row(provider: Provider, line: bytes, by_key: dict[str, ParsedRequest]) -> ResultRow:
    try:
        value = dict_or_empty(orjson.loads(line))
    except orjson.JSONDecodeError:
        value = {}
    request = by_key.get(provider.key(value))
    return ResultRow(provider.reply(line, request.fields if request else ()), request, value)


def _members(value: Any, place: str = "", depth: int = 0) -> Iterator[str]:
    if isinstance(value, list):
        for item in value[:3]:
            yield from _members(item, place, depth + 1)
    elif isinstance(value, dict) and depth < DEEPEST:
        for name, part in value.items():
            inner = f"{place}.{name}" if place else str(name)
            yield inner
            yield from _members(part, inner, depth + 1)
