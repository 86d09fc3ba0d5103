"""Dialogues and steps, and the names of conversations and requests in files and requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import product
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple


class Stage(StrEnum):
    """What is written in a round, in this order."""

    QUESTION = "question"
    ANSWER = "answer"
    CORRECTION = "correction"


STAGES = tuple(Stage)
FIRST_ROUND = 2  # round 1 is the seed


class Step(NamedTuple):
    """A (round, stage). Steps have one order. A conversation stands at one step, or is complete, or is rejected."""

    round: int
    stage: Stage

    @property
    def position(self) -> int:
        """The step's place in the whole dialogue: 0 is the question of round 1."""
        return (self.round - 1) * len(STAGES) + STAGES.index(self.stage)

    @classmethod
    def at(cls, position: int) -> Step:
        """Return the step at `position`."""
        return cls(position // len(STAGES) + 1, STAGES[position % len(STAGES)])

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def steps(rounds: int) -> list[Step]:
    """List all steps that a run of `rounds` rounds buys, in order."""
    return [Step(number, stage) for number in range(FIRST_ROUND, rounds + 1) for stage in STAGES]


class Turn(NamedTuple):
    """One round of a dialogue. A field that is not written yet is empty."""

    question: str
    answer: str = ""
    correction: str = ""


class Conversation(NamedTuple):
    """One dialogue: its number in seed order, from 1, and its turns so far. The last turn may be unfinished."""

    number: int
    turns: tuple[Turn, ...]


class HistoryShows(StrEnum):
    """What the question and the correction stage see of each earlier turn."""

    CORRECTIONS = "corrections"  # question and correction: what the user saw
    EVERYTHING = "everything"  # the flawed answer too


def group_into_turns(texts: Sequence[str]) -> Iterator[Turn]:
    """Group the texts of a dialogue into turns. The last turn may be unfinished."""
    for start in range(0, len(texts), len(STAGES)):
        yield Turn(*texts[start : start + len(STAGES)])


ID_DIGITS = 6


def conversation_id(number: int, digits: int = ID_DIGITS) -> str:
    """Return the id of a conversation, such as `r1-000001`.

    Large runs have more `digits`, so that ids sorted as text are in seed order.
    """
    return f"r1-{number:0{digits}d}"


def request_key(identity: str, step: Step, attempt: int, run: str) -> str:
    """Return the key of one request: unique over the run, at most 64 characters of [A-Za-z0-9._-].

    `run` is the mark of the run. Without it two roots that grow the same seeds would have equal files, and Together
    finds a file, and so a job, by its content alone.
    """
    return f"{identity}.r{step.round}.{step.stage}.a{attempt}.{run}"


def key_format(step: Step, attempt: int, run: str, digits: int) -> bytes:
    """Return a format for the keys of many requests: `key_format(...) % number`."""
    return request_key(f"r1-%0{digits}d", step, attempt, run).encode()


MAX_KEY_CHARACTERS = 64  # Together's limit
_KEY_PATTERN = r"r1-(?P<number>\d+)\.r(?P<round>\d+)\.(?P<stage>question|answer|correction)\.a(?P<attempt>\d+)\.\w+"


class ParsedKey(NamedTuple):
    """What a request key says."""

    number: int
    step: Step
    attempt: int


def parse_key(key: str) -> ParsedKey | None:
    """Read a request key. Returns None if this program did not make it."""
    match = re.fullmatch(_KEY_PATTERN, key) if len(key) <= MAX_KEY_CHARACTERS else None
    if match is None:
        return None
    step = Step(int(match["round"]), Stage(match["stage"]))
    return ParsedKey(int(match["number"]), step, int(match["attempt"]))


ECHO_FIELD = "m"  # the name of the echo in a JSON reply; short, because every reply is billed for it
# Pairs of letters, those that Gemini's tokenizer reads as one token first: in lower case, then with one capital.
_ECHOES = tuple(
    one + other
    for first, second in (
        (ascii_lowercase, ascii_lowercase),
        (ascii_uppercase, ascii_lowercase),
        (ascii_uppercase, ascii_uppercase),
        (ascii_lowercase, ascii_uppercase),
    )
    for one, other in product(first, second)
)


def echo_of(number: int) -> str:
    """Return the echo of a conversation: two letters that only a reply to its own requests can hold.

    It depends on the number alone, so that it can be computed from any request key. Conversations whose numbers differ
    by a multiple of 2704 have the same echo.
    """
    return _ECHOES[number % len(_ECHOES)]
