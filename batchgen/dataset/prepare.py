"""Create round 1 of a new run from single-turn triples."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, islice, starmap
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Turn
from batchgen.core.errors import InputError, SetupError
from batchgen.core.text import clean_text
from batchgen.core.wording import pluralize
from batchgen.dataset.hub.seed_terms import DEFAULT_DATASET, SEED_TERMS_FACT, fetch_seed_terms
from batchgen.dataset.manifest import FACTS, manifest_matches, write_manifest
from batchgen.dataset.round_files import write_due_files
from batchgen.dataset.rows.dotted_paths import parse_columns
from batchgen.dataset.rows.row_files import file_sha256
from batchgen.dataset.rows.shapes import Columns
from batchgen.dataset.seed_sources import DATASET_ID, resolve
from batchgen.dataset.seeds import Seed, SeedReport, read_seeds, sample_seeds
from batchgen.ledger.run import Run
from batchgen.runtime.files import as_text, lost_store_error
from batchgen.runtime.progress_log import log_progress

PREVIEWED = 2  # triples shown before anything is written
MOST_PREVIEWED = 32  # characters of a text in the preview


class PrepareOptions(NamedTuple):
    """Which seeds to take. `limit` None takes every row, in file order.

    `columns` and `file` are the options of these names, "" if not given.
    """

    source: str
    limit: int | None
    sample_seed: int
    shuffle: bool
    columns: str = ""
    file: str = ""


class Prepared(NamedTuple):
    """What `prepare` did. `report` is None if the root was prepared the same way before.

    `source` is the file that was read, or the folder or dataset of several files.
    """

    conversations: int
    source: str
    files: list[Path]
    report: SeedReport | None


def prepare(run: Run, options: PrepareOptions, show: Callable[[str], None] = lambda _: None) -> Prepared:
    """Fill the root with round 1. Changes nothing if it has the same input and options already.

    `show` gets the preview: what the rows were recognized as and two triples, before anything is written. Raises
    SetupError if the root has paid work for other input; NeedsPerson if the store of that work is missing or an older
    copy; InputError if the input cannot be read or has no usable row.
    """
    _check_store(run)
    columns = Columns(parse_columns(options.columns) if options.columns else None)
    files = resolve(options.source, options.file)
    source = str(files[0]) if len(files) == 1 else options.source
    identity = _identity(files, columns, options)
    if run.store.fact("prepared") == identity:
        if not manifest_matches(run):
            write_manifest(run, {name: value for name in FACTS if (value := run.store.fact(name)) is not None})
        write_due_files(run)
        return Prepared(run.conversations, source, files, None)
    if run.store.has_paid():
        raise SetupError(
            f"{run.layout.root} already has a run with other seeds ({run.store.fact('source')}), and money was spent on"
            " it. Nothing was changed.",
            do="Start another root: batchgen --root NEW-DIR prepare --input ...",
        )
    run.require_newest_store()
    report = SeedReport()
    rows = read_seeds(files[0], report, columns, more=files[1:])
    seeds = sample_seeds(rows, limit=options.limit, sample_seed=options.sample_seed, shuffle=options.shuffle)
    first = list(islice(seeds, PREVIEWED))
    show("\n".join([f"Read as {report.shape}.", *map(_preview_line, first)]))
    name, terms = as_text(options.source), ""
    if not os.path.exists(options.source):  # noqa: PTH110 - as in resolve
        terms = fetch_seed_terms(options.source)
    elif DATASET_ID.fullmatch(name) and name != DEFAULT_DATASET:
        name = f"./{name}"  # a card must not take this path for a dataset of the hub
    _delete_unsent_files(run)
    meta = {"prepared": identity, "source": name, "run": secrets.token_hex(4)}
    if terms:
        meta[SEED_TERMS_FACT] = terms
    kept = log_progress(chain(first, seeds), "triples kept")
    count = run.store.replace_seeds(starmap(Turn, kept), meta)
    write_manifest(run, meta)
    write_due_files(run)
    return Prepared(count, source, files, report)


def _preview_line(seed: Seed) -> str:
    """Return a triple as one line: the beginning of each text, without characters that a terminal obeys."""
    shown = []
    for name, text in seed._asdict().items():
        words = " ".join("".join(one if one.isprintable() else " " for one in clean_text(text[:200])).split())
        shown.append(f"{name}: {words if len(words) <= MOST_PREVIEWED else words[: MOST_PREVIEWED - 3] + '...'}")
    return f"  {' | '.join(shown)}"


def _check_store(run: Run) -> None:
    run.require_complete_store()
    if run.store.fact("run") is None and (lost := lost_store_error(run.layout)):
        raise lost


def _identity(files: list[Path], columns: Columns, options: PrepareOptions) -> str:
    """Return a value that is equal for equal input and options. The contents of the files count, not their paths."""
    try:
        contents = [file_sha256(path) for path in files]
    except OSError as error:
        raise InputError(f"{files[0]}: {error.strerror}.", do="Check --input.") from None
    drawn = options.limit is not None and options.shuffle
    given = [columns.paths] if columns.paths else []
    content = contents[0] if len(contents) == 1 else contents
    return json.dumps([content, options.limit, options.sample_seed if drawn else None, *given])


def _delete_unsent_files(run: Run) -> None:
    """Delete request files that were never sent; they belong to the seeds that are replaced."""
    for batch in run.store.batches():
        with suppress(FileNotFoundError):
            run.layout.requests(batch.step, batch.name).unlink()


def describe(done: Prepared) -> tuple[dict[str, object], str]:
    """Return (JSON value, text) about what `prepare` did: rows kept and left out, where and why."""
    value: dict[str, object] = {"conversations": done.conversations, "source": done.source}
    value["files"] = [str(path) for path in done.files]
    if done.report is None:
        return {
            **value,
            "unchanged": True,
        }, f"{pluralize(done.conversations, 'conversation')} prepared already; nothing changed."
    report = done.report
    value |= {"read_as": report.shape, "read": report.read, "kept": report.kept, "left_out": dict(report.left_out)}
    value["repeated_questions"] = report.copies
    value["examples"] = {reason: list(lines) for reason, lines in report.examples.items()}
    kept, rows = pluralize(done.conversations, "conversation"), pluralize(report.read, "row")
    source = done.source if len(done.files) == 1 else f"{len(done.files)} files of {done.source}"
    lines = [f"{kept} prepared from {source} ({rows} read)."]
    for reason, count in sorted(report.left_out.items()):
        where = ", ".join(map(str, report.examples.get(reason, ())))
        more = ", ..." if count > len(report.examples.get(reason, ())) else ""
        lines.append(f"  left out: {count:,} {reason} (line {where}{more})")
    if report.copies:
        lines.append(f"  {pluralize(report.copies, 'row')} with a question that an earlier row asks too")
    return value, "\n".join(lines)
