"""Single-turn triples -> round 1 of a new run."""

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
from batchgen.core.wording import counted
from batchgen.dataset.manifest import FACTS, keep_seeds, seeds_are_kept
from batchgen.dataset.round_files import refresh
from batchgen.dataset.seeds import KINDS, SeedReport, container, draw, fingerprint, read_seeds, resolve
from batchgen.ledger.run import Run
from batchgen.runtime.files import Layout, as_text, lost_store

MOST_FILES = 5  # of a folder, that an error names


class Options(NamedTuple):
    """What to take from where. `limit` None takes every row, in file order."""

    source: str
    limit: int | None
    sample_seed: int
    shuffle: bool


class Prepared(NamedTuple):
    """What `prepare` did; `report` is None when the root was prepared the same way before."""

    conversations: int
    source: Path
    report: SeedReport | None


def prepare(run: Run, options: Options) -> Prepared:
    """Fill the root with round 1. Changes nothing when it holds the same input with the same options.

    Raises SetupError when other input is given to a root that holds paid work, NeedsPerson when that work has lost its
    store, or has an older copy of it, InputError for input that cannot be read or has no usable row.
    """
    _need_a_place(run)
    path = resolve(options.source)
    if path.is_dir():
        raise InputError(f"{path} is a directory.", do=_which_file(path))
    identity = _identity(path, options)
    if run.store.fact("prepared") == identity:
        if not seeds_are_kept(run):
            keep_seeds(run, {name: run.store.fact(name) or "" for name in FACTS})
        refresh(run)
        return Prepared(run.conversations, path, None)
    if run.store.has_paid():
        raise SetupError(
            f"{run.layout.root} already grows other seeds ({run.store.fact('source')}), and money was spent on"
            " them. Nothing was changed.",
            do="Start another root: batchgen --root NEW-DIR prepare --input ...",
        )
    run.need_newest_store()
    _forget_unsent(run.layout, run)
    report = SeedReport()
    seeds = draw(
        read_seeds(path, report), limit=options.limit, sample_seed=options.sample_seed, shuffle=options.shuffle
    )
    meta = {"prepared": identity, "source": as_text(options.source), "run": secrets.token_hex(4)}
    count = run.store.replace_seeds(_turns(seeds), meta)
    keep_seeds(run, meta)
    refresh(run)
    return Prepared(count, path, report)


def _need_a_place(run: Run) -> None:
    run.need_whole_store()
    if run.store.fact("run") is None and (lost := lost_store(run.layout)):
        raise lost


def _which_file(folder: Path) -> str:
    """Which file of a folder to name: the one train file, the one file of a known kind, or one of several."""
    usable = sorted(each.name for each in folder.iterdir() if container(each.name) and each.is_file())
    names = [name for name in usable if name.startswith("train")] or usable
    if not names:
        return f"It holds no file that can be read. {KINDS}"
    if len(names) == 1:
        return f"Name the file: --input {shlex.quote(str(folder / names[0]))}"
    shown = ", ".join(names[:MOST_FILES])
    return f"Name one of its files: {shown}{', ...' if len(names) > MOST_FILES else '.'}"


def _identity(path: Path, options: Options) -> str:
    """Equal for equal input and options: the file's content counts, not where it lies."""
    try:
        content = fingerprint(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.", do="Check --input.") from None
    drawn = options.limit is not None and options.shuffle
    return json.dumps([content, options.limit, options.sample_seed if drawn else None])


def _turns(seeds: Iterator[tuple[str, str, str]]) -> Iterator[Turn]:
    return (Turn(*seed) for seed in seeds)


def _forget_unsent(layout: Layout, run: Run) -> None:
    """Request files that were written but never sent belong to the seeds that are being replaced."""
    for batch in run.store.batches():
        with suppress(FileNotFoundError):
            layout.requests(batch.step, batch.name).unlink()


def describe(done: Prepared) -> tuple[dict[str, object], str]:
    """(JSON value, text) of what `prepare` did: what was kept, what was left out, where and why."""
    value: dict[str, object] = {"conversations": done.conversations, "source": str(done.source)}
    if done.report is None:
        return {
            **value,
            "unchanged": True,
        }, f"{counted(done.conversations, 'conversation')} prepared already; nothing changed."
    report = done.report
    value |= {"read": report.read, "kept": report.kept, "left_out": dict(report.left_out)}
    value["repeated_questions"] = report.copies
    value["examples"] = {reason: list(lines) for reason, lines in report.examples.items()}
    kept, rows = counted(done.conversations, "conversation"), counted(report.read, "row")
    lines = [f"{kept} prepared from {done.source} ({rows} read)."]
    for reason, count in sorted(report.left_out.items()):
        where = ", ".join(map(str, report.examples.get(reason, ())))
        more = ", ..." if count > len(report.examples.get(reason, ())) else ""
        lines.append(f"  left out: {count:,} {reason} (line {where}{more})")
    if report.copies:
        lines.append(f"  {counted(report.copies, 'row')} with a question that an earlier row asks too")
    return value, "\n".join(lines)
