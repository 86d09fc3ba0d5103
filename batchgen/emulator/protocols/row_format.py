"""The interface of a provider's line format, as the rest of the service uses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batchgen.emulator.backends.builtin import Answer, Prompt
from batchgen.emulator.faults import RowFault

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A provider's batch lines: `key_field` and `body_field` are member names of a request line.

    prompt       (body of a request) -> Prompt
    job_problem  (lines, serves) -> why the whole job fails when it starts, or ""
    refusal      (body of a request, serves) -> why this request fails without asking a backend, or ""
    row          (key, model, answer) -> the line of an answered row
    failed_row   (key, message) -> the line of a failed row
    cancelled    (key) -> the line of a row that a cancel left unserved, None if the provider writes none
    failed       (line) -> whether its row failed
    edits        outcome of a row fault -> the function that changes a row

    `serves` returns whether a model is served.
    """

    key_field: str
    body_field: str
    prompt: Callable[[Row], Prompt]
    job_problem: Callable[[Sequence[bytes], Callable[[str], bool]], str]
    refusal: Callable[[Row, Callable[[str], bool]], str]
    row: Callable[[str, str, Answer], Row]
    failed_row: Callable[[str, str], Row]
    cancelled: Callable[[str], Row | None]
    failed: Callable[[Row], bool]
    edits: Mapping[str, Callable[[Row, RowFault], Row]]
