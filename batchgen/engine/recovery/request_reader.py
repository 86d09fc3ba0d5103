"""Read the request files of a run, one at a time. Changes nothing."""

from __future__ import annotations

import re
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from batchgen.core.dialogue import Stage, Step, parse_key
from batchgen.core.errors import InputError
from batchgen.core.jsonl import dict_or_empty, split_lines
from batchgen.core.prompts import reply_fields
from batchgen.providers import PROVIDERS
from batchgen.providers.base import ParsedRequest, Provider
from batchgen.runtime.files import Layout
from batchgen.runtime.logging_setup import log

_NAME = re.compile(r"\w+-r(?P<round>\d+)-(?P<stage>question|answer|correction)-(?P<serial>\d+)-a(?P<attempt>\d+)")


class RequestFile(NamedTuple):
    """A request file, by its name. `serial` is the number of its batch in the ledger."""

    path: Path
    step: Step
    serial: int
    attempt: int


class ReadRequestFile(NamedTuple):
    """The content of a request file: what it asks, and for which conversations."""

    file: RequestFile
    provider: Provider
    asked: tuple[ParsedRequest, ...]

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of its conversations, in file order."""
        return [key.number for one in self.asked if (key := parse_key(one.key))]

    @property
    def model(self) -> str:
        """Return the model, "" if the lines do not name it."""
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
    """Return one file for each batch number, in order.

    If the program was killed after a request file was written and before the ledger was, that file belongs to no batch.
    Its number went to a later file, which has an ending or at least is younger.
    """
    kept: dict[int, RequestFile] = {}
    for one in sorted(_find_request_files(layout), key=lambda one: (has_ending(layout, one), one.path.stat().st_mtime)):
        if before := kept.get(one.serial):
            log.warning("%s: was never sent; %s has its number", before.path, one.path.name)
        kept[one.serial] = one
    return [kept[serial] for serial in sorted(kept)]


def has_ending(layout: Layout, file: RequestFile) -> bool:
    """Return whether the end of a file's batch is known."""
    return layout.ending(file.step, file.path.stem).exists()


def _find_request_files(layout: Layout) -> Iterator[RequestFile]:
    for path in (layout.root / "requests").glob("round*/*/*.jsonl"):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            log.warning("%s: not a request file of this program; it is passed over", path)
            continue
        step = Step(int(match["round"]), Stage(match["stage"]))
        yield RequestFile(path, step, int(match["serial"]), int(match["attempt"]))


def read_request_file(file: RequestFile) -> ReadRequestFile:
    """Read a request file. Raises InputError if it is not a request file of a run."""
    rows = list(_rows(file.path))
    for provider in PROVIDERS.values():
        if asked := tuple(one for one in map(provider.asked, rows) if one is not None):
            return ReadRequestFile(file, provider, asked)
    raise InputError(
        f"{file.path}: no provider's requests.", do="Restore requests/ from a backup: rebuild needs it unchanged."
    )


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(split_lines(path.read_bytes()), start=1):
        try:
            yield dict_or_empty(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: not what was sent ({error}).",
                do="Restore requests/ from a backup: rebuild needs it unchanged.",
            ) from None


class LastRequestIndex:
    """Index of the last file that asked for each text of each conversation, four bytes a text.

    Reads only files that matter: second attempts, and files behind a batch without an ending.
    """

    def __init__(self, layout: Layout, files: Sequence[RequestFile], conversations: int) -> None:
        """`files` are all request files of a run, in order. Raises InputError."""
        self._serials: dict[int, array[int]] = {}
        open_ones = (file.serial for file in files if not has_ending(layout, file))
        first_open = next(open_ones, files[-1].serial if files else 0)
        for file in files:
            if file.attempt > 1 or file.serial > first_open:
                self._add_file(read_request_file(file), conversations)

    def _add_file(self, sent: ReadRequestFile, conversations: int) -> None:
        at = self._serials.setdefault(sent.file.step.position, array("I", bytes(4 * (conversations + 1))))
        for number in sent.numbers:
            if number <= conversations:
                at[number] = sent.file.serial

    def asked_again(self, file: RequestFile, numbers: Collection[int]) -> set[int]:
        """Return those of `numbers` for which a later file asked for the same text."""
        at = self._serials.get(file.step.position)
        return {number for number in numbers if at[number] > file.serial} if at else set()

    def asked_anything_later(self, file: RequestFile, numbers: Collection[int]) -> bool:
        """Return whether a later file asked for any text of `numbers`. `file` belongs to a batch without an ending."""
        return any(at[number] > file.serial for at in self._serials.values() for number in numbers)
