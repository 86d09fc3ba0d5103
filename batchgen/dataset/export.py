"""Export the finished dataset in the formats that trainers read. `verify_exports` compares the files with the store.

Reads the store twice, in chunks of whole conversations. The first pass measures the whole dataset (usual lengths,
near-duplicates, groups for the split); the second adds flags and writes.
"""

from __future__ import annotations

import json
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, NamedTuple

import orjson
import polars as pl
from polars.io.plugins import register_io_source

from batchgen.core.dialogue import STAGES, Conversation
from batchgen.core.errors import SetupError
from batchgen.dataset.audit.verdicts import judged_turns
from batchgen.dataset.card import CARD, ExportFacts, SplitFile, card, may_replace_with_card
from batchgen.dataset.dataset_info import DATASET_INFO, write_dataset_info
from batchgen.dataset.formats import FORMATS, FlaggedConversation, Format
from batchgen.dataset.hub.seed_terms import seed_terms
from batchgen.dataset.manifest import all_instructions, known_facts
from batchgen.dataset.quality.flags import FLAGS, LABELS, labels_by_turn, labels_for, turns_frame
from batchgen.dataset.quality.survey import Survey, choose_test_conversations, survey
from batchgen.ledger.rows import BatchState
from batchgen.ledger.run import Run
from batchgen.ledger.status import status
from batchgen.ledger.store import Store
from batchgen.runtime.files import as_text, atomic_write, need_place, write_durably
from batchgen.runtime.logging_setup import log
from batchgen.runtime.progress_log import log_progress
from batchgen.runtime.worker_process import parallel_map

CHUNK = 250  # conversations, or records, in memory at once
CHUNK_CHARACTERS = 4_000_000  # or this many characters, if texts are long
ROW_GROUP = 1000  # records; polars holds several groups in memory, raw and compressed
TRAIN, TEST = "train", "test"
FILE_SUFFIXES = (".jsonl", ".parquet")
OTHER_SUFFIXES = (".json", ".csv", ".tsv", ".txt", ".md", ".arrow", ".sqlite", ".toml", ".gz", ".xz", ".zst", ".zip")
CHOSEN_EQUALS_REJECTED = "chosen_equals_rejected"
EXPORTS_FACT = "exports"  # the fact that holds where exports were written, for `verify`

Record = Mapping[str, Any]
Sink = Callable[[Record], object]


class ExportOptions(NamedTuple):
    """What to write and where. `flags` is "keep" or "drop:NAME,..."; with `test_share` 0 there is no split.

    `license` is the licence that the card states; "" takes that of the seeds.
    """

    form: str
    output: Path
    flags: str = "keep"
    test_share: float = 0.0
    split_seed: int = 42
    license: str = ""


class Exported(NamedTuple):
    """What was written. `labels` counts the records with a label, `left_out` those that were not written.

    `dataset_names` are the names of the files in LLaMA-Factory's dataset_info.json beside them.
    """

    parts: Mapping[str, SplitFile]
    conversations: int
    labels: Mapping[str, int]
    left_out: Mapping[str, int]
    finished: bool
    dataset_names: Sequence[str] = ()


def export(run: Run, options: ExportOptions) -> Exported:
    """Write every conversation that has all rounds. Enter the files for `verify`, and for LLaMA-Factory beside them.

    Raises SetupError if there is none, for unknown flags or licence, and for an output path that cannot be used.
    """
    done = write_export(run, options, _command(options))
    names = write_dataset_info(options.form, options.output, [part.path for part in done.parts.values()])
    _record_export(run, options.output)
    return done._replace(dataset_names=names)


def write_export(run: Run, options: ExportOptions, command: str) -> Exported:
    """Write the files of an export, and into a folder its card, which says that `command` made it.

    Raises SetupError as `export` does.
    """
    form, dropped, terms = FORMATS[options.form], _dropped(options.flags), seed_terms(run, options.license)
    outputs = _outputs(run, options)
    need_place(next(iter(outputs.values())), "Choose another path: --output PATH")
    finished = bool(status(run.store, run.settings, run.now())["finished"])
    if next(_complete_conversations(run), None) is None:
        raise SetupError(
            f"No conversation has all {run.settings.rounds} rounds yet; there is nothing to export.",
            do="All were rejected: read data/rejected.jsonl, then: batchgen retry"
            if finished
            else "See `batchgen status`; `batchgen collect --advance` goes on.",
        )
    if not finished:
        log.warning("The dataset is not finished: only conversations that have all rounds are exported.")
    every = f"of {run.conversations:,} conversations"
    chunks = map(turns_frame, log_progress(_chunks(_complete_conversations(run)), f"{every} measured", len))
    judged = ((turn.number, turn.round, turn.winner) for turn in judged_turns(run))
    whole = survey(chunks, partial(_turns_of, run), groups=bool(options.test_share), judged=judged)
    test = _test_conversations(whole, options)
    writing = _RecordWriter(form, dropped, test)
    with ExitStack() as stack:
        schema = form.schema(run.settings.rounds)
        sinks = {split: stack.enter_context(_sink(path, schema)) for split, path in outputs.items()}
        dialogues = stack.enter_context(closing(_flagged_conversations(run, whole)))
        for number, dialogue in log_progress(dialogues, f"{every} written"):
            writing.write(sinks, number, dialogue)
    parts = {split: SplitFile(path, writing.rows[split]) for split, path in outputs.items()}
    done = Exported(parts, writing.conversations, writing.labels, writing.left_out, finished)
    if options.output.is_dir():
        facts = ExportFacts(options.form, parts, done.conversations, done.labels, done.left_out, whole.scripts, terms)
        write_durably(options.output / CARD, [card(run, facts, command).encode()])
    return done


def _record_export(run: Run, output: Path) -> None:
    if run.store.is_read_only:
        log.warning("%s cannot be written to: `batchgen verify` will not check this export again.", run.layout.data)
        return
    places = {*map(str, written_exports(run)), str(output)}
    run.store.set_fact(EXPORTS_FACT, json.dumps(sorted(places)))  # not orjson, which refuses a path that is not UTF-8


def written_exports(run: Run) -> list[Path]:
    """Return the existing exports of this run, by the paths they were written to."""
    places = json.loads(run.store.fact(EXPORTS_FACT) or "[]")
    return [Path(place) for place in places if os.path.exists(place)]  # noqa: PTH110 - Path's raises without access


class _RecordWriter:
    """The second pass: writes records to their split and counts them."""

    def __init__(self, form: Format, dropped: frozenset[str], test: frozenset[int]) -> None:
        self._format, self._dropped, self._test = form, dropped, test
        self.rows, self.labels, self.left_out = Counter[str](), Counter[str](), Counter[str]()
        self.conversations, self._last = 0, 0

    def write(self, sinks: Mapping[str, Sink], number: int, dialogue: FlaggedConversation) -> None:
        split = TEST if number in self._test else TRAIN
        for unit in self._format.units(dialogue):
            found = self._format.labels(unit)
            reasons = [label for label in found if label in self._dropped] + [
                CHOSEN_EQUALS_REJECTED
            ] * self._format.same(unit)
            if reasons:
                self.left_out[reasons[0]] += 1
                continue
            sinks[split](self._format.record(unit))
            self.rows[split] += 1
            self.labels.update(found)
            self.conversations += number != self._last
            self._last = number


def _dropped(flags: str) -> frozenset[str]:
    """Return the labels that `--flags` leaves out."""
    word, _, names = flags.partition(":")
    if flags == "keep":
        return frozenset()
    wanted = {name.strip(): labels_for(name.strip()) for name in names.split(",")}
    unknown = [name for name, found in wanted.items() if not found]
    if word != "drop" or unknown:
        fields = [label for label in LABELS if label not in FLAGS]
        raise SetupError(
            f"--flags {flags}: "
            f"{'no such flag: ' + ', '.join(unknown) if word == 'drop' else 'must be keep or drop:NAME,...'}.",
            do=f"Flags: {', '.join(FLAGS)}; or one field of a flag: {', '.join(fields)}.",
        )
    return frozenset(label for found in wanted.values() for label in found)


# ---------------------------------------------------------------- output paths


def _outputs(run: Run, options: ExportOptions) -> dict[str, Path]:
    """Return the files to write, by split. A path with a suffix is one file; any other is a directory with a card."""
    output = options.output
    own = [run.layout.data, run.layout.root / "requests", run.layout.root / "results"]
    if any(_real(output).is_relative_to(_real(folder)) for folder in own):
        raise SetupError(f"{output} is inside the run's own folders.", do="Choose an --output outside of them.")
    if output.suffix in FILE_SUFFIXES and not output.is_dir():
        if options.test_share:
            raise SetupError(
                "A split needs several files, and --output names one.",
                do="Name a directory: an --output without a suffix.",
            )
        return {TRAIN: output}
    if output.suffix.lower() in (*FILE_SUFFIXES, *OTHER_SUFFIXES) or output.is_file():
        raise SetupError(
            f"{output} cannot hold an export.",
            do="Use a path that ends in .jsonl or .parquet, or one without a suffix.",
        )
    return _in_directory(output, options)


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a loop of links


def _in_directory(folder: Path, options: ExportOptions) -> dict[str, Path]:
    """Return the files of an export in `folder`. Raises SetupError if other data is in it."""
    suffix = ".parquet" if options.form == "parquet" else ".jsonl"
    splits = [TRAIN, TEST] if options.test_share else [TRAIN]
    files = {split: folder / f"{split}{suffix}" for split in splits}
    others = {folder / f"{split}{each}" for split in (TRAIN, TEST) for each in FILE_SUFFIXES} - set(files.values())
    if left := sorted(path.name for path in others if path.exists()):
        raise SetupError(
            f"{folder} holds {', '.join(left)} of another export.", do="Delete it, or choose another --output."
        )
    if not may_replace_with_card(folder / CARD):
        raise SetupError(f"{folder / CARD} was not written by an export.", do="Choose another --output.")
    return files


@contextmanager
def _jsonl(path: Path) -> Iterator[Sink]:
    with atomic_write(path) as stream:
        yield lambda record: stream.write(orjson.dumps(record) + b"\n")


@contextmanager
def _parquet(path: Path, schema: pl.Schema) -> Iterator[Sink]:
    """Collect lines in a temporary file without a name, and write them as Parquet at the end, a chunk at a time."""
    with atomic_write(path) as stream, TemporaryFile(dir=path.parent) as lines:
        yield lambda record: lines.write(orjson.dumps(record) + b"\n")
        source = register_io_source(lambda *_: _frames(lines, schema), schema=schema)
        source.sink_parquet(stream, row_group_size=ROW_GROUP)


def _frames(lines: IO[bytes], schema: pl.Schema) -> Iterator[pl.DataFrame]:
    lines.seek(0)
    while chunk := list(islice(lines, CHUNK)):
        yield pl.DataFrame(list(map(orjson.loads, chunk)), schema=schema, orient="row")


def _sink(path: Path, schema: pl.Schema) -> AbstractContextManager[Sink]:
    return _parquet(path, schema) if path.suffix == ".parquet" else _jsonl(path)


def _test_conversations(whole: Survey, options: ExportOptions) -> frozenset[int]:
    """Return the conversations of the test split."""
    if not options.test_share:
        return frozenset()
    test = choose_test_conversations(whole.together, options.test_share, options.split_seed)
    if not test:
        raise SetupError(
            "All conversations begin with the same question; they cannot be split.", do="Leave out --test-share."
        )
    return test


def _command(options: ExportOptions) -> str:
    """Return the command that writes the same files again."""
    start = f"batchgen export --format {options.form} --output {as_text(options.output.name)}"
    return start + option_words(options)


def option_words(options: ExportOptions) -> str:
    """Return the options that choose and describe records, as they are typed, each after a space."""
    parts = [""]
    if options.flags != "keep":
        parts.append(f"--flags {options.flags}")
    if options.test_share:
        parts.append(f"--test-share {options.test_share:g} --split-seed {options.split_seed}")
    if options.license:
        parts.append(f"--license {options.license}")
    return " ".join(parts)


# ---------------------------------------------------------------- the store as dialogues


def _complete_conversations(run: Run) -> Iterator[Conversation]:
    return run.store.dialogues.all(run.settings.rounds * len(STAGES))


def _chunks(conversations: Iterator[Conversation]) -> Iterator[list[Conversation]]:
    """Yield CHUNK conversations at a time, or fewer with CHUNK_CHARACTERS characters."""
    chunk: list[Conversation] = []
    room = CHUNK_CHARACTERS
    for one in conversations:
        chunk.append(one)
        room -= sum(len(text) for turn in one.turns for text in turn)
        if len(chunk) == CHUNK or room <= 0:
            yield chunk
            chunk, room = [], CHUNK_CHARACTERS
    if chunk:
        yield chunk


def _turns_of(run: Run, numbers: pl.Series) -> Iterator[pl.DataFrame]:
    """Yield the turns of complete conversations again, by their numbers."""
    rounds = run.settings.rounds
    for start in range(0, numbers.len(), CHUNK):
        some = run.store.dialogues.read(numbers.slice(start, CHUNK).to_list())
        yield from (turns_frame(one._replace(turns=one.turns[:rounds]) for one in chunk) for chunk in _chunks(some))


def _flagged_conversations(run: Run, whole: Survey) -> Generator[tuple[int, FlaggedConversation]]:
    """Yield (number, dialogue) of every complete conversation, with flags, in seed order."""
    names, writers = run.names(), ModelAttribution(run.store, run.settings.rounds)
    chunks: deque[list[Conversation]] = deque()

    def frames() -> Iterator[pl.DataFrame]:
        for chunk in _chunks(_complete_conversations(run)):
            chunks.append(chunk)
            yield whole.add_context(turns_frame(chunk))

    find_labels = partial(labels_by_turn, instructions=all_instructions(known_facts(run.layout)))
    for _, found in parallel_map(find_labels, frames()):
        labels = iter(found)
        for one in chunks.popleft():
            by_turn = tuple(map(tuple, islice(labels, len(one.turns))))
            yield one.number, FlaggedConversation(names.id(one.number), one.turns, by_turn, writers.of(one.number))


class ModelAttribution:
    """Which model wrote each text, from the ledger. Only steps that changed their model are looked up row by row."""

    def __init__(self, store: Store, rounds: int) -> None:
        self._store, self._positions = store, range(rounds * len(STAGES))
        self._models: dict[int, str] = {}
        self._single_models: dict[int, str | None] = {}
        collected = store.batches(BatchState.COLLECTED)
        for position in self._positions:
            # A question may have come along with the correction before it.
            batches = [each for each in collected if each.position <= position < each.position + each.texts]
            models = {batch.model for batch in batches}
            if len(models) > 1:
                self._models |= {batch.number: batch.model for batch in batches}
            else:
                self._single_models[position] = models.pop() if models else None

    def of(self, number: int) -> tuple[str | None, ...]:
        """Return the model that wrote each text of a conversation, None for the seed."""
        if not self._models:
            return tuple(self._single_models.values())
        sources = self._store.dialogues.sources(number)
        return tuple(
            self._single_models[place] if place in self._single_models else self._models.get(sources.get(place, 0))
            for place in self._positions
        )


# ---------------------------------------------------------------- what the command prints


def describe(options: ExportOptions, done: Exported) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) about what was exported."""
    rows = sum(part.rows for part in done.parts.values())
    value = {
        "format": options.form,
        "output": str(options.output),
        "files": [{"split": split, "path": str(part.path), "rows": part.rows} for split, part in done.parts.items()],
        "conversations": done.conversations,
        "rows": rows,
        "left_out": dict(done.left_out),
        "flags": dict(done.labels),
        "finished": done.finished,
        "dataset_names": list(done.dataset_names),
    }
    lines = [f"{done.conversations} conversations exported as {options.form}, {rows} rows:"]
    lines += [f"  {part.path}: {part.rows}" for part in done.parts.values()]
    if done.dataset_names:
        lines.append(f"  {DATASET_INFO} for LLaMA-Factory: {', '.join(done.dataset_names)}")
    lines += [f"  left out: {count} {reason}" for reason, count in sorted(done.left_out.items())]
    lines += [f"  flagged: {done.labels[label]} {label}" for label in LABELS if label in done.labels]
    return value, "\n".join(lines)
