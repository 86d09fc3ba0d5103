"""The vocabulary: stages, steps, turns, conversations, and the names of both in files and on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple


class Stage(StrEnum):
    """What is written next in a round."""

    QUESTION = "question"
    ANSWER = "answer"
    CORRECTION = "correction"


STAGES = tuple(Stage)
FIRST_ROUND = 2  # round 1 is the seed


class Step(NamedTuple):
    """A (round, stage). Steps are totally ordered; a conversation is at one step, complete, or rejected."""

    round: int
    stage: Stage

    @property
    def position(self) -> int:
        """Position in the whole dialogue, 0 for the question of round 1."""
        return (self.round - 1) * len(STAGES) + STAGES.index(self.stage)

    @classmethod
    def at(cls, position: int) -> Step:
        return cls(position // len(STAGES) + 1, STAGES[position % len(STAGES)])

    def __str__(self) -> str:
        return f"round {self.round} {self.stage}"


def steps(rounds: int) -> list[Step]:
    """All steps that are bought in a run of `rounds` rounds, in order."""
    return [Step(number, stage) for number in range(FIRST_ROUND, rounds + 1) for stage in STAGES]


class Turn(NamedTuple):
    """One round of a dialogue; a field not written yet is empty."""

    question: str
    answer: str = ""
    correction: str = ""


class Conversation(NamedTuple):
    """One dialogue: its number in seed order (from 1) and its turns so far, the last one possibly unfinished."""

    number: int
    turns: tuple[Turn, ...]


def turns(texts: Sequence[str]) -> Iterator[Turn]:
    """Consecutive texts of a dialogue as turns; the last one may lack its end."""
    for start in range(0, len(texts), len(STAGES)):
        yield Turn(*texts[start : start + len(STAGES)])


ID_DIGITS = 6


def conversation_id(number: int, digits: int = ID_DIGITS) -> str:
    """`r1-000001`; `digits` grows with the run, so that ids sort as text in seed order."""
    return f"r1-{number:0{digits}d}"


def request_key(identity: str, step: Step, attempt: int, run: str) -> str:
    """The key of one request: unique over the whole run, at most 64 characters of [A-Za-z0-9._-].

    `run` tells this run's requests from those of another root that grows the same seeds: Together finds a
    file, and so a job, by its content alone.
    """
    return f"{identity}.r{step.round}.{step.stage}.a{attempt}.{run}"


def key_format(step: Step, attempt: int, run: str, digits: int) -> bytes:
    """The same for many requests: `key_format(...) % number` is a request's key in a file."""
    return request_key(f"r1-%0{digits}d", step, attempt, run).encode()


# Patterns here and in other rooms of every command are compiled when they are first used: an idle tick uses none.
KEY_CHARACTERS = 64  # Together takes no more
_KEY = r"r1-(?P<number>\d+)\.r(?P<round>\d+)\.(?P<stage>question|answer|correction)\.a(?P<attempt>\d+)\.\w+"


class ParsedKey(NamedTuple):
    number: int
    step: Step
    attempt: int


def parse_key(key: str) -> ParsedKey | None:
    """What a request key says, or None when it is none of ours."""
    match = re.fullmatch(_KEY, key) if len(key) <= KEY_CHARACTERS else None
    if match is None:
        return None
    step = Step(int(match["round"]), Stage(match["stage"]))
    return ParsedKey(int(match["number"]), step, int(match["attempt"]))
