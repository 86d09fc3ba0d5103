"""The store, built again from `requests/` and `results/` alone. No network, nothing is paid.

What was sent and what came back is enough: every request file is entered in the order in which it was planned, and
settled by its result lines and its ending, by the same code that settled it the first time.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import zstandard

from batchgen import booking
from batchgen.costs import input_margin, requests_tokens
from batchgen.counting import features
from batchgen.dialogue import Stage, Step, Turn, parse_key
from batchgen.errors import InputError, SetupError
from batchgen.files import Layout, hash_file, write_durably
from batchgen.logs import log
from batchgen.outcomes import Reason, Usage, accepted_keys
from batchgen.prompts import fields_of
from batchgen.providers import PROVIDERS
from batchgen.providers import provider as provider_row
from batchgen.providers.base import Asked, Provider
from batchgen.providers.reading import as_object, read_lines
from batchgen.records import KEY_UNKNOWN, REBUILDING, Batch, Plan, Row, pin
from batchgen.rounds import refresh
from batchgen.session import Session

_NAME = re.compile(r"\w+-r(?P<round>\d+)-(?P<stage>question|answer|correction)-(?P<serial>\d+)-a(?P<attempt>\d+)")
RELEASED = ("refused", "abandoned")
REMOTE = ("key_fingerprint", "remote_file", "remote_id")
FACTS = ("prepared", "source", "run")


class Rebuilt(NamedTuple):
    """What was found: conversations, batches settled again, batches whose end is not known."""

    conversations: int
    settled: int
    open: int


class _Sent(NamedTuple):
    """One request file."""

    path: Path
    step: Step
    serial: int
    attempt: int
    provider: str
    model: str
    follow_up: bool
    numbers: tuple[int, ...]


def keep_seeds(session: Session, facts: Mapping[str, str]) -> None:
    """Lay a run's facts and its seeds beside its requests, where `rebuild` finds them."""
    folder = session.layout.root / "requests"

    def lines() -> Iterator[bytes]:
        compressor = zstandard.ZstdCompressor().compressobj()
        for conversation in session.store.dialogues(len(Turn._fields)):
            yield compressor.compress(orjson.dumps(tuple(conversation.turns[0])) + b"\n")
        yield compressor.flush()

    write_durably(folder / "seeds.jsonl.zst", lines())
    write_durably(folder / "run.json", [orjson.dumps(dict(facts))])


def seeds_are_kept(session: Session) -> bool:
    """Whether the files beside the requests belong to this run. A kill may have come between the store and them."""
    if not (session.layout.root / "requests" / "seeds.jsonl.zst").exists():
        return False
    try:
        return _facts(session.layout).get("run") == session.store.meta("run")
    except InputError:
        return False


def need_files(layout: Layout) -> None:
    """Raises InputError where a run never was, or has lost what it was prepared from: nothing is made there."""
    _facts(layout)


def rebuild(session: Session) -> Rebuilt:
    """Fill an empty store from the files. Raises SetupError when it is not empty, InputError without the files."""
    if session.conversations and not session.store.meta(REBUILDING):
        raise SetupError(
            f"{session.layout.store} holds a run already; nothing was changed.",
            do="Move it away first: mv data/batchgen.sqlite data/batchgen.sqlite.old",
        )
    sent = _planned(session.layout, _request_files(session.layout))
    # Until the end nothing else may work with this store: it would buy what is not settled again yet.
    facts = {**_facts(session.layout), REBUILDING: "1"}
    conversations = session.store.replace_seeds(_seeds(session.layout), facts)
    latest = {number: one.serial for one in sent for number in one.numbers}
    again_at = {(number, one.step): one.serial for one in sent if one.attempt > 1 for number in one.numbers}
    settled = unknown = 0
    answered: set[tuple[int, Step]] = set()  # by results that came late, when another batch had been asked already
    for one in sent:
        numbers = [number for number in one.numbers if (number, one.step) not in answered]
        batch = _enter(session, one, numbers)
        again = any(latest[number] > one.serial for number in numbers)
        ending = booking.read_ending(booking.ending_file(session.layout, batch)) or _guess(session, batch, again=again)
        if ending is not None and ending.state in RELEASED:
            until = ending.awaited_until
            session.store.release(batch, ending.state, error=ending.why, refused=ending.refused, awaited_until=until)
            _supersede(session, batch, ending.state)
        elif ending is not None:
            asked_again = {number for number in numbers if again_at.get((number, one.step), 0) > one.serial}
            _settle(session, batch, ending, asked_again)
            if ending.late:
                answered.update((number, one.step) for number in asked_again.difference(ending.gone))
            settled += 1
        elif again:
            session.store.release(batch, "refused", error="left no results, and its conversations were asked again")
        else:
            _leave_open(session, batch)
            unknown += 1
    session.store.forget_meta(REBUILDING)
    refresh(session)
    return Rebuilt(conversations, settled, unknown)


def _facts(layout: Layout) -> dict[str, str]:
    path = layout.root / "requests" / "run.json"
    try:
        return dict(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: {why}.", do="rebuild needs requests/ as the run left it.") from None


def _seeds(layout: Layout) -> Iterator[Turn]:
    path = layout.root / "requests" / "seeds.jsonl.zst"
    try:
        with path.open("rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as reader:
            rest = b""
            while block := reader.read(1 << 20):
                *whole, rest = (rest + block).split(b"\n")
                yield from (Turn(*orjson.loads(line)) for line in whole)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(f"{path}: {error}.", do="rebuild needs requests/ as the run left it.") from None


def _planned(layout: Layout, found: Iterable[_Sent]) -> list[_Sent]:
    """One file for each number of the ledger, in its order.

    A kill between a request file and the ledger leaves a file that nobody refers to; the number went to a later one,
    which has an ending or is at least the younger file.
    """
    kept: dict[int, _Sent] = {}
    for one in sorted(found, key=lambda one: (bool(_ending_facts(layout, one)), one.path.stat().st_mtime)):
        if before := kept.get(one.serial):
            log.warning("%s: was never sent; %s has its number", before.path, one.path.name)
        kept[one.serial] = one
    return [kept[serial] for serial in sorted(kept)]


def _request_files(layout: Layout) -> Iterator[_Sent]:
    for path in (layout.root / "requests").glob("round*/*/*.jsonl"):
        match = _NAME.fullmatch(path.stem)
        if match is None:
            log.warning("%s: not a request file of this program; it is passed over", path)
            continue
        provider, asked = _asked(path)
        keys = [parse_key(one.key) for one in asked]
        yield _Sent(
            path=path,
            step=Step(int(match["round"]), Stage(match["stage"])),
            serial=int(match["serial"]),
            attempt=int(match["attempt"]),
            provider=provider.name,
            model=asked[0].model,
            follow_up=asked[0].fields == fields_of(Stage.CORRECTION, follow_up=True),
            numbers=tuple(key.number for key in keys if key),
        )


def _asked(path: Path) -> tuple[Provider, list[Asked]]:
    """What a request file asks, and whom."""
    rows = list(_rows(path))
    for provider in PROVIDERS.values():
        asked = [one for one in map(provider.asked, rows) if one is not None]
        if asked:
            return provider, asked
    raise InputError(f"{path}: no provider's requests.", do="rebuild needs requests/ as the run left it.")


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(read_lines(path.read_bytes()), start=1):
        try:
            yield as_object(orjson.loads(line))
        except orjson.JSONDecodeError as error:
            raise InputError(
                f"{path}:{number}: not what was sent ({error}).", do="rebuild needs requests/ as the run left it."
            ) from None


def _enter(session: Session, one: _Sent, numbers: Sequence[int]) -> Batch:
    """Plan the batch as it was planned, under its own number, for those of its conversations that lack its text."""
    written = hash_file(one.path)
    facts = _ending_facts(session.layout, one)
    plan = Plan(
        name=one.path.stem,
        position=one.step.position,
        attempt=one.attempt,
        provider=one.provider,
        model=one.model or str(facts.get("model", "")),
        requests=len(numbers),
        bytes=written.size,
        sha256=written.sha256,
        input_tokens=0,
        output_ceiling=0,
        estimated_usd=facts.get("estimated_usd"),  # None in an ending of an older program
        reserved_usd=None,
        planned_at=one.path.stat().st_mtime,
        follow_up=one.follow_up,
    )
    rows = [Row(number, one.step.position, one.attempt, 0, 0) for number in numbers]
    session.store.make_free([row.number for row in rows], one.step.position)
    try:
        batch = session.store.plan(plan, rows, number=one.serial)
    except AssertionError:
        why = "its conversations were elsewhere; a file of an earlier batch is gone or was changed"
        raise InputError(
            f"{one.path}: {why}.", do="rebuild needs requests/ and results/ as the run left them."
        ) from None
    # By these its late results are found, and what is left at the provider is cleaned.
    return session.store.update(batch, **{name: facts.get(name) for name in REMOTE})


def _ending_facts(layout: Layout, one: _Sent) -> dict[str, Any]:
    path = layout.results(one.step, one.path.stem).with_suffix(".ending.json")
    return dict(orjson.loads(path.read_bytes())) if path.exists() else {}


def _guess(session: Session, batch: Batch, *, again: bool) -> booking.Ending | None:
    """The ending of a batch that lost its own, though its results are here and its conversations went on (`again`)."""
    if not again or not any(path.exists() for path in _result_files(session.layout, batch)):
        return None
    log.warning("%s: its ending is gone; it is settled by its results alone", session.describe(batch))
    flags = session.settings.stage(batch.step.stage).retry_flags
    return booking.Ending(Reason.MISSING, "its ending is gone", retry_flags=flags)


def _settle(session: Session, batch: Batch, ending: booking.Ending, asked_again: Collection[int]) -> None:
    """Settle a batch as it was settled. `asked_again` are conversations of which a later batch asked for the same text:
    none of this one was accepted, unless it was late. If one is there and the ending does not say so, a kill came
    before it could.
    """
    batch = session.store.update(batch, state="in_flight", intent_at=batch.planned_at, submitted_at=batch.planned_at)
    provider = provider_row(batch.provider)
    if batch.model:
        session.store.set_meta(pin(batch.provider), batch.model)
    session.store.let_go(batch, ending.gone, "no results at first", max_attempts=session.settings.batches.max_attempts)
    keys, raw = session.keys(batch), _raw(session.layout, batch)
    if ending.late:  # which texts were taken is known
        booking.settle(session, batch, keys, booking.lines_judged(provider, batch, raw), ending)
        return
    replies = booking.replies(session, provider, batch, raw, keys, ending.retry_flags)
    accepted = {keys.get(key, 0) for key in accepted_keys(replies)} if asked_again else set()
    if late := accepted.intersection(asked_again):
        gone = {**ending.gone, **dict.fromkeys(late, ending.absent)}
        _settle(session, batch, ending._replace(gone=gone), ())
        return
    booking.settle(session, batch, keys, replies, ending)


def _supersede(session: Session, batch: Batch, state: str) -> None:
    """The results of a job that turned up after it had been given up: billed, and used by nobody."""
    if raw := _raw(session.layout, batch):
        booking.supersede(session, provider_row(batch.provider), batch._replace(state=state), raw)


def _raw(layout: Layout, batch: Batch) -> bytes:
    """Everything that came back for a batch."""
    return b"\n".join(path.read_bytes() for path in _result_files(layout, batch) if path.exists())


def _result_files(layout: Layout, batch: Batch) -> Sequence[Path]:
    return layout.results(batch.step, batch.name), layout.errors(batch.step, batch.name)


def _leave_open(session: Session, batch: Batch) -> None:
    """A batch without an ending may be in flight: it is treated as an unanswered create, and never bought again.

    Money may be owed for it, so that it is reserved again. A file for Gemini does not name its model.
    """
    log.warning("%s: how it ended is not known; it is looked for, and not bought again", session.describe(batch))
    model = batch.model or session.model(provider_row(batch.provider))
    provider, asked = _asked(session.layout.requests(batch.step, batch.name))
    said = features(" ".join(text for one in asked for text in one.texts))
    tokens = requests_tokens("", said, len(asked), provider.tokens)
    ceiling = sum(one.max_output_tokens for one in asked)
    most = Usage(input=round(tokens * (1 + input_margin(batch.requests))), output=ceiling)
    rate = session.rate(model)
    session.store.update(
        batch,
        state="creating",
        model=model,
        input_tokens=tokens,
        output_ceiling=ceiling,
        reserved_usd=rate.usd(most) if rate else None,
        intent_at=batch.planned_at,
        key_fingerprint=KEY_UNKNOWN,
    )
