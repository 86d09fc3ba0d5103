"""Create round 1 of a new run from single-turn triples."""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Turn
from batchgen.core.errors import InputError, SetupError
from batchgen.core.wording import pluralize
from batchgen.dataset.manifest import FACTS, manifest_matches, write_manifest
from batchgen.dataset.round_files import write_due_files
from batchgen.dataset.seed_sources import resolve
from batchgen.dataset.seeds import (
    SUPPORTED_FILES_HINT,
    SeedReport,
    file_format,
    file_sha256,
    read_seeds,
    sample_seeds,
)
from batchgen.ledger.run import Run
from batchgen.runtime.files import Layout, as_text, lost_store_error

MOST_FILES = 5  # files of a folder that an error message lists


class PrepareOptions(NamedTuple):
    """Which seeds to take. `limit` None takes every row, in file order."""

    source: str
    limit: int | None
    sample_seed: int
    shuffle: bool


class Prepared(NamedTuple):
    """What `prepare` did. `report` is None if the root was prepared the same way before."""

    conversations: int
    source: Path
    report: SeedReport | None


def prepare(run: Run, options: PrepareOptions) -> Prepared:
    """Fill the root with round 1. Changes nothing if it has the same input and options already.

    Raises SetupError if the root has paid work for other input; NeedsPerson if the store of that work is missing or an
    older copy; InputError if the input cannot be read or has no usable row.
    """
    _check_store(run)
    path = resolve(options.source)
    if path.is_dir():
        raise InputError(f"{path} is a directory.", do=_which_file(path))
    identity = _identity(path, options)
    if run.store.fact("prepared") == identity:
        if not manifest_matches(run):
            write_manifest(run, {name: run.store.fact(name) or "" for name in FACTS})
        write_due_files(run)
        return Prepared(run.conversations, path, None)
    if run.store.has_paid():
        raise SetupError(
            f"{run.layout.root} already has a run with other seeds ({run.store.fact('source')}), and money was spent on"
            " it. Nothing was changed.",
            do="Start another root: batchgen --root NEW-DIR prepare --input ...",
        )
    run.require_newest_store()
    _delete_unsent_files(run.layout, run)
    report = SeedReport()
    seeds = sample_seeds(
        read_seeds(path, report), limit=options.limit, sample_seed=options.sample_seed, shuffle=options.shuffle
    )
    meta = {"prepared": identity, "source": as_text(options.source), "run": secrets.token_hex(4)}
    count = run.store.replace_seeds(_turns(seeds), meta)
    write_manifest(run, meta)
    write_due_files(run)
    return Prepared(count, path, report)


def _check_store(run: Run) -> None:
    run.require_complete_store()
    if run.store.fact("run") is None and (lost := lost_store_error(run.layout)):
        raise lost


def _which_file(folder: Path) -> str:
    """Return which file of a folder to suggest: the train file, the only file of a known format, or a choice."""
    usable = sorted(each.name for each in folder.iterdir() if file_format(each.name) and each.is_file())
    names = [name for name in usable if name.startswith("train")] or usable
    if not names:
        return f"It has no file of a supported format. {SUPPORTED_FILES_HINT}"
    if len(names) == 1:
        return f"Name the file: --input {shlex.quote(str(folder / names[0]))}"
    shown = ", ".join(names[:MOST_FILES])
    return f"Name one of its files: {shown}{', ...' if len(names) > MOST_FILES else '.'}"


def _identity(path: Path, options: PrepareOptions) -> str:
    """Return a value that is equal for equal input and options. The content of the file counts, not its path."""
    try:
        content = file_sha256(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", do="Check --input.") from None
    drawn = options.limit is not None and options.shuffle
    return json.dumps([content, options.limit, options.sample_seed if drawn else None])


def _turns(seeds: Iterator[tuple[str, str, str]]) -> Iterator[Turn]:
    return (Turn(*seed) for seed in seeds)


def _delete_unsent_files(layout: Layout, run: Run) -> None:
    """Delete request files that were never sent; they belong to the seeds that are replaced."""
    for batch in run.store.batches():
        with suppress(FileNotFoundError):
            layout.requests(batch.step, batch.name).unlink()


def describe(done: Prepared) -> tuple[dict[str, object], str]:
    """Return (JSON value, text) about what `prepare` did: rows kept and left out, where and why."""
    value: dict[str, object] = {"conversations": done.conversations, "source": str(done.source)}
    if done.report is None:
        return {
            **value,
            "unchanged": True,
        }, f"{pluralize(done.conversations, 'conversation')} prepared already; nothing changed."
    report = done.report
    value |= {"read": report.read, "kept": report.kept, "left_out": dict(report.left_out)}
    value["repeated_questions"] = report.copies
    value["examples"] = {reason: list(lines) for reason, lines in report.examples.items()}
    kept, rows = pluralize(done.conversations, "conversation"), pluralize(report.read, "row")
    lines = [f"{kept} prepared from {done.source} ({rows} read)."]
    for reason, count in sorted(report.left_out.items()):
        where = ", ".join(map(str, report.examples.get(reason, ())))
        more = ", ..." if count > len(report.examples.get(reason, ())) else ""
        lines.append(f"  left out: {count:,} {reason} (line {where}{more})")
    if report.copies:
        lines.append(f"  {pluralize(report.copies, 'row')} with a question that an earlier row asks too")
    return value, "\n".join(lines)
