"""Read the request files of a run, one at a time. Changes nothing."""

from __future__ import annotations

import re
from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batchgen.core.dialogue import FIRST_JUDGEMENT, Stage, Step, parse_key
from batchgen.core.errors import InputError
from batchgen.core.jsonl import dict_or_empty, split_lines
from batchgen.core.prompts import reply_fields
from batchgen.providers import PROVIDERS
from batchgen.providers.base import ParsedRequest
from batchgen.runtime.files import Layout
from batchgen.runtime.logging_setup import log

_NAME = re.compile(r"\w+-r(?P<round>\d+)-(?P<stage>question|answer|correction|audit)-(?P<serial>\d+)-a(?P<attempt>\d+)")


class RequestFile(NamedTuple):
    """What the name of a request file says. `serial` is the number of its batch in the ledger."""

    path: Path
    step: Step
    serial: int
    attempt: int


class ReadRequestFile(NamedTuple):
    """The content of a request file: what it asks, and for which conversations.

    `providers` are those whose request lines have this form.
    """

    file: RequestFile
    providers: tuple[str, ...]
    asked: tuple[ParsedRequest, ...]

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of its conversations, in file order."""
        return [key.number for one in self.asked if (key := parse_key(one.key))]

    @property
    def model(self) -> str:
        """Return the model that it asks, "" if the lines do not name it."""
        return self.asked[0].model

    @property
    def follow_up(self) -> bool:
        """Return whether the requests also ask for the next round's question."""
        return self.asked[0].fields == reply_fields(Stage.CORRECTION, follow_up=True)

    @property
    def echo(self) -> bool:
        """Return whether the schema of each request fixes an echo."""
        return self.asked[0].echoes


def request_files(layout: Layout) -> list[RequestFile]:
    """Return one request file for each batch number, in the order of the numbers.

    A kill between writing a file and planning its batch leaves a file without a batch. A later file then gets the same
    number. Of two such files, the one with an ending is the later one, or else the one that was modified last.
    """
    kept: dict[int, RequestFile] = {}
    for one in sorted(_find_request_files(layout), key=lambda one: (has_ending(layout, one), one.path.stat().st_mtime)):
        if before := kept.get(one.serial):
            log.warning("%s: was never sent; its batch number went to %s", before.path, one.path.name)
        kept[one.serial] = one
    return [kept[serial] for serial in sorted(kept)]


def has_ending(layout: Layout, file: RequestFile) -> bool:
    """Return whether the batch of a request file has an ending."""
    return layout.ending(file.step, file.path.stem).exists()


def _find_request_files(layout: Layout) -> Iterator[RequestFile]:
    for path in (layout.root / "requests").glob("round*/*/*.jsonl"):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            log.warning("%s: ignored; its name is not that of a request file", path)
            continue
        step = Step(int(match["round"]), Stage(match["stage"]))
        yield RequestFile(path, step, int(match["serial"]), int(match["attempt"]))


def read_request_file(file: RequestFile) -> ReadRequestFile:
    """Read a request file. Raises InputError if it is damaged or not for a known provider."""
    rows = list(_rows(file.path))
    by_reader: dict[Callable[..., ParsedRequest | None], list[str]] = {}
    for provider in PROVIDERS.values():
        by_reader.setdefault(provider.asked, []).append(provider.name)
    for read, names in by_reader.items():
        if asked := tuple(one for one in map(read, rows) if one is not None):
            return ReadRequestFile(file, tuple(names), asked)
    raise InputError(
        f"{file.path}: has no request for a known provider.",
        do="Restore requests/ from a backup: rebuild needs it unchanged.",
    )


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(split_lines(path.read_bytes()), start=1):
        try:
            yield dict_or_empty(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: not valid JSON ({error}).",
                do="Restore requests/ from a backup: rebuild needs it unchanged.",
            ) from None


class LastRequestIndex:
    """Knows which file was the last to ask for each text of each conversation. Takes four bytes a text.

    Reads only files that matter: later attempts, and all files after the first batch without an ending.
    """

    def __init__(self, layout: Layout, files: Sequence[RequestFile], conversations: int) -> None:
        """Read `files`: all request files of a run, in order. Raises InputError."""
        self._serials: dict[int, array[int] | defaultdict[int, int]] = {}
        open_ones = (file.serial for file in files if not has_ending(layout, file))
        first_open = next(open_ones, files[-1].serial if files else 0)
        for file in files:
            if file.attempt > 1 or file.serial > first_open:
                self._add_file(read_request_file(file), conversations)

    def _add_file(self, sent: ReadRequestFile, conversations: int) -> None:
        judged = sent.file.step.stage is Stage.AUDIT
        empty = defaultdict[int, int](int) if judged else array("I", bytes(4 * (conversations + 1)))
        at = self._serials.setdefault(sent.file.step.position, empty)
        for number in sent.numbers:
            if judged or number <= conversations:
                at[number] = sent.file.serial

    def asked_again(self, file: RequestFile, numbers: Collection[int]) -> set[int]:
        """Return those of `numbers` that a later file asked for the same text."""
        at = self._serials.get(file.step.position)
        return {number for number in numbers if at[number] > file.serial} if at else set()

    def asked_anything_later(self, file: RequestFile, numbers: Collection[int]) -> bool:
        """Return whether a later file asked for any text of `numbers`. Call it only for a batch without an ending."""
        return any(
            at[number] > file.serial
            for position, at in self._serials.items()
            for number in numbers
            if (number >= FIRST_JUDGEMENT) == (Step.at(position).stage is Stage.AUDIT)
        )
