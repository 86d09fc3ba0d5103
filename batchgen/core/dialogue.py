"""Dialogues and steps, and the names of conversations and requests in files and requests. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import product
from string import ascii_lowercase, ascii_uppercase
from typing import NamedTuple


class Stage(StrEnum):
    """What a request asks for. The first three are written in a round, in this order."""

    QUESTION = "question"
    ANSWER = "answer"
    CORRECTION = "correction"
    AUDIT = "audit"  # the judgement of a finished turn; no part of a dialogue


STAGES = (Stage.QUESTION, Stage.ANSWER, Stage.CORRECTION)  # what is written in a round
FIRST_ROUND = 2  # round 1 is the seed
MAX_ROUNDS = 50
# Judgements have positions of their own, above those of the longest dialogue. The position after each one is free: a
# judgement that has its text moves there, as a conversation moves to its next step.
_FIRST_AUDIT_POSITION = len(STAGES) * MAX_ROUNDS + 2
_AUDIT_POSITIONS = 2


class Step(NamedTuple):
    """A round and a stage, ordered by `position`. A conversation stands at one step, or is complete or rejected."""

    round: int
    stage: Stage

    @property
    def position(self) -> int:
        """The step's place in the whole dialogue: 0 is the question of round 1. An audit comes after all dialogues."""
        if self.stage is Stage.AUDIT:
            return _FIRST_AUDIT_POSITION + (self.round - 1) * _AUDIT_POSITIONS
        return (self.round - 1) * len(STAGES) + STAGES.index(self.stage)

    @classmethod
    def at(cls, position: int) -> Step:
        """Return the step at `position`."""
        if position >= _FIRST_AUDIT_POSITION:
            return cls((position - _FIRST_AUDIT_POSITION) // _AUDIT_POSITIONS + 1, Stage.AUDIT)
        return cls(position // len(STAGES) + 1, STAGES[position % len(STAGES)])

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def steps(rounds: int) -> list[Step]:
    """List the steps that write the dialogues of a run of `rounds` rounds, in order."""
    return [Step(number, stage) for number in range(FIRST_ROUND, rounds + 1) for stage in STAGES]


def audit_steps(rounds: int) -> list[Step]:
    """List the audit of every round, in order. Round 1, the seed, is judged too."""
    return [Step(number, Stage.AUDIT) for number in range(1, rounds + 1)]


FIRST_JUDGEMENT = 1 << 40  # above every number of a conversation


class Judgement(NamedTuple):
    """One request to the judge: a turn, and in which order its two replies are shown (1: the answer first, 2: last).

    A store holds it as it holds a conversation, under a `number` of its own.
    """

    conversation: int
    round: int
    order: int

    @property
    def number(self) -> int:
        return FIRST_JUDGEMENT + (self.conversation << 7) + (self.round << 1) + self.order - 1

    @classmethod
    def at(cls, number: int) -> Judgement:
        """Return the judgement with this number."""
        rest = number - FIRST_JUDGEMENT
        return cls(rest >> 7, rest >> 1 & 63, (rest & 1) + 1)


def conversation_of(number: int) -> int:
    """Return the number of the conversation that `number` belongs to: itself, or that of a judgement."""
    return Judgement.at(number).conversation if number >= FIRST_JUDGEMENT else number


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


def request_key(identity: str, step: Step, attempt: int, run: str, *, order: int = 0) -> str:
    """Return the key of one request: unique over the run, at most 64 characters of [A-Za-z0-9._-].

    `run` is the mark of the run. Without it two roots that grow the same seeds would have equal files, and Together
    finds a file, and so a job, by its content alone. `order` is that of a judgement.
    """
    return f"{identity}.r{step.round}.{step.stage}{order or ''}.a{attempt}.{run}"


def key_format(step: Step, attempt: int, run: str, digits: int) -> bytes:
    """Return a format for the keys of many requests: `key_format(...) % number`."""
    return request_key(f"r1-%0{digits}d", step, attempt, run).encode()


MAX_KEY_CHARACTERS = 64  # Together's limit
_KEY_PATTERN = (
    r"r1-(?P<number>\d+)\.r(?P<round>\d+)\."
    r"(?:(?P<stage>question|answer|correction)|audit(?P<order>[12]))\.a(?P<attempt>\d+)\.\w+"
)


class ParsedKey(NamedTuple):
    """What a request key says. `number` is that of the conversation or the judgement."""

    number: int
    step: Step
    attempt: int


def parse_key(key: str) -> ParsedKey | None:
    """Read a request key. Returns None if this program did not make it."""
    match = re.fullmatch(_KEY_PATTERN, key) if len(key) <= MAX_KEY_CHARACTERS else None
    if match is None:
        return None
    number, order = int(match["number"]), int(match["order"] or 0)
    step = Step(int(match["round"]), Stage(match["stage"] or Stage.AUDIT))
    if order:
        number = Judgement(number, step.round, order).number
    return ParsedKey(number, step, int(match["attempt"]))


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
