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

    prompt        a request's body as a Prompt
    job_problem   (lines, serves, endpoint) -> why the whole job fails when it starts, empty when it does not
    refusal       why a request fails at once, "" when it does not; the models served are asked
    row           (key, model, answer) -> the line of a row that was answered
    failed_row    (key, message, status) -> the line of a row that was not; status is 400 for a bad request, else 500
    cancelled     (key) -> the line of a row that a cancel left unserved, None when it has none
    failed        whether a line says that its row failed
    errors_apart  whether failed rows are in a file of their own
    edits         what a row fault's outcome makes of a row
    """

    key_field: str
    body_field: str
    prompt: Callable[[Row], Prompt]
    job_problem: Callable[[Sequence[bytes], Callable[[str], bool], str], Any]
    refusal: Callable[[Row, Callable[[str], bool]], str]
    row: Callable[[str, str, Answer], Row]
    failed_row: Callable[[str, str, int], Row]
    cancelled: Callable[[str], Row | None]
    failed: Callable[[Row], bool]
    errors_apart: bool
    edits: Mapping[str, Callable[[Row, RowFault], Row]]
