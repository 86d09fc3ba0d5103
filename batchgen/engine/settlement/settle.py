"""Settle a batch: parse its result lines, reject swapped replies, match by key, commit one transaction. No network.

How a batch ended is written to a file beside its results (`BATCH.ending.json`), so that `rebuild` can settle it again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from batchgen.core.dialogue import Stage, parse_key
from batchgen.core.jsonl import split_lines
from batchgen.core.outcomes import Reason, Reply, Usage, accepted_keys, validate_text
from batchgen.core.pricing import Rate
from batchgen.core.prompts import reply_fields
from batchgen.core.wording import pluralize
from batchgen.engine.session import Session
from batchgen.engine.settlement.echo_check import are_echoes_ignored, check_echoes
from batchgen.engine.settlement.flag_retry import reject_flagged
from batchgen.engine.settlement.swap_detection import (
    COMPARED_CHARACTERS,
    WHOLE_BATCH_LEAST,
    WHOLE_BATCH_SHARE,
    find_swapped_replies,
)
from batchgen.ledger.rows import WAITING_STATES, Batch, BatchState, echo_ignored_fact
from batchgen.providers.base import Provider
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import write_durably
from batchgen.runtime.logging_setup import log


class Ending(NamedTuple):
    """How a batch ended.

    `absent` and `why` are the reason and detail of each request without a result row. `error` is the error of the job
    itself. `refused`, of a batch that bought nothing, maps each rejected conversation to its detail.
    `retry_flags` are the quality flags for which texts of this batch were rejected; they are kept because the
    configuration may have changed when the store is rebuilt.

    `late`: the batch had ended without results, and they arrived later. `gone` maps the conversations that took no late
    text to the reason of the first end; all others took theirs. Until `awaited_until` (seconds since 1970 UTC) a batch
    that ended without results may still bring some.
    """

    absent: Reason
    why: str
    state: BatchState = BatchState.COLLECTED
    error: str | None = None
    refused: Mapping[int, str] = MappingProxyType({})
    retry_flags: tuple[str, ...] = ()
    gone: Mapping[int, Reason] = MappingProxyType({})
    late: bool = False
    awaited_until: float | None = None


# Columns of the ledger that are kept in an ending, because no request or result file has them.
REMOTE_FIELDS = ("key_fingerprint", "remote_file", "remote_id")
LEDGER_FIELDS = ("provider", "model", "estimated_usd", "reserved_usd", *REMOTE_FIELDS)
LATE_RESULTS_SECONDS = 72 * 3600.0  # how long an abandoned, cancelled or lost job may still bring results


def read_ending(path: Path) -> Ending | None:
    """Return the ending in `path`, None if the batch has not ended."""
    if not path.exists():
        return None
    value = orjson.loads(path.read_bytes())
    refused = {int(number): why for number, why in value.get("refused", {}).items()}
    flags = tuple(value.get("retry_flags", ()))
    gone = {int(number): Reason(reason) for number, reason in value.get("gone", {}).items()}
    late, until = value.get("late", False), value.get("awaited_until")
    return Ending(
        Reason(value["absent"]),
        value["why"],
        BatchState(value["state"]),
        value["error"],
        refused,
        flags,
        gone,
        late,
        until,
    )


def read_ledger_fields(path: Path) -> dict[str, Any]:
    """Return the ledger columns that the ending in `path` keeps.

    A column is None if there is no such file, or if an older version of the program wrote it without that column.
    """
    value = orjson.loads(path.read_bytes()) if path.exists() else {}
    return {name: value.get(name) for name in LEDGER_FIELDS}


def release_batch(
    session: Session,
    batch: Batch,
    state: BatchState,
    *,
    error: str,
    refused: Mapping[int, str] | None = None,
    late_results_until: float | None = None,
) -> None:
    """End a batch that bought nothing, and write its ending.

    Its conversations become ready again, except the `refused` ones (number to detail), which are rejected. The batch
    may have bought something after all: until `late_results_until` its results may arrive.
    """
    ending = Ending(Reason.NOT_SENT, error, state, error, dict(refused or {}), awaited_until=late_results_until)
    write_ending(session, batch, ending)
    session.store.release(batch, state, error=error, refused=refused, late_results_until=late_results_until)


def release_except_refused(session: Session, batch: Batch, lines: Mapping[int, str], error: str) -> int:
    """Reject the conversations of refused request lines (numbered from 1), and make the others ready again.

    For a batch that bought nothing. Returns how many were rejected; with 0 nothing was changed.
    """
    rows = session.store.held_conversations(batch.number)
    refused = {rows[line - 1].number: text for line, text in lines.items() if 0 < line <= len(rows)}
    if refused:
        release_batch(session, batch, BatchState.REFUSED, error=error, refused=refused)
    return len(refused)


def abandon_batch(session: Session, batch: Batch, error: str) -> None:
    """End a batch for whose create call no job was found. The job may still appear later."""
    until = (batch.job.intent_at or session.now()) + LATE_RESULTS_SECONDS
    release_batch(session, batch, BatchState.ABANDONED, error=error, late_results_until=until)


def forget_ending(session: Session, batch: Batch) -> None:
    """Delete the ending of a batch that is about to be created or has a job.

    A kill may have left an ending that the store does not know. With it, `rebuild` would buy the conversations again.
    """
    session.layout.ending(batch.step, batch.name).unlink(missing_ok=True)


def write_ending(session: Session, batch: Batch, ending: Ending) -> None:
    """Write a batch's ending beside its result files, durably."""
    columns = batch.columns()
    record = {**{name: columns[name] for name in LEDGER_FIELDS}, **ending._asdict()}
    for name in ("refused", "gone"):
        record[name] = {str(number): why for number, why in record[name].items()}
    write_durably(session.layout.ending(batch.step, batch.name), [orjson.dumps(record)])


def parse_results(
    session: Session, provider: Provider, batch: Batch, raw: bytes, keys: Mapping[str, int], retry_flags: Sequence[str]
) -> list[Reply]:
    """Parse the result lines of a batch. Reject swapped replies, and texts that have one of `retry_flags`.

    `keys` maps the keys of the batch to conversation numbers, in order (`session.keys`).
    """
    replies = parse_result_lines(provider, batch, raw)
    return reject_flagged(session, batch, _reject_misplaced(session, batch, keys, replies), retry_flags)


def parse_result_lines(provider: Provider, batch: Batch, raw: bytes) -> list[Reply]:
    """Parse the result lines of a batch one by one, and validate each text."""
    stage = batch.step.stage
    fields, read = reply_fields(stage, follow_up=bool(batch.plan.follow_up)), provider.reply
    return [validate_text(stage, read(line, fields)) for line in split_lines(raw)]


def _reject_misplaced(session: Session, batch: Batch, keys: Mapping[str, int], replies: Sequence[Reply]) -> list[Reply]:
    """Mark replies that belong to another request of this batch as MISPLACED: by their echo, else by their words.

    A reply with the echo of its own request is not compared at all.
    """
    if not batch.plan.echo:
        return _reject_swapped(session, batch, keys, replies)
    found = check_echoes(keys, replies)
    swapped = dict[str, str]()
    if found.unproven or found.may_be_ignored:
        accepted = {reply.key: reply.text for reply in replies if reply.reason is Reason.ACCEPTED}
        requests = _requests(session, batch, keys, accepted)
        swapped = find_swapped_replies(requests, accepted)
        if found.may_be_ignored and are_echoes_ignored(found, replies, requests, swapped):
            _stop_echoes(session, batch)
            return _mark_misplaced(session, batch, replies, _by_key(replies, swapped), len(requests))
    wrong = dict(found.foreign)
    for position in found.unproven:
        fits = swapped.get(replies[position].key)
        if fits is not None and fits not in found.proven:
            wrong[position] = fits
    return _mark_misplaced(session, batch, replies, wrong, len(keys), proven=found.proven)


def _stop_echoes(session: Session, batch: Batch) -> None:
    """Record that the model of a batch ignores the echo; later batches for it have none."""
    fact = echo_ignored_fact(batch.provider, batch.model)
    if session.store.fact(fact) is None:
        log.warning(
            "%s: %s does not return the echo of its schema; replies are compared by their words, and later batches have"
            " no echo",
            session.describe(batch),
            batch.model or batch.provider,
        )
    session.store.set_fact(fact, "1")


def _reject_swapped(session: Session, batch: Batch, keys: Collection[str], replies: Sequence[Reply]) -> list[Reply]:
    """Mark replies whose words belong to another request of this batch as MISPLACED; if there are many, mark all."""
    accepted = {reply.key: reply.text for reply in replies if reply.reason is Reason.ACCEPTED}
    requests = _requests(session, batch, keys, accepted)
    wrong = _by_key(replies, find_swapped_replies(requests, accepted))
    return _mark_misplaced(session, batch, replies, wrong, len(requests))


def _by_key(replies: Sequence[Reply], swapped: Mapping[str, str]) -> dict[int, str]:
    """Return the accepted replies whose key is in `swapped`: {position: the key it fits}."""
    return {
        position: swapped[reply.key]
        for position, reply in enumerate(replies)
        if reply.reason is Reason.ACCEPTED and reply.key in swapped
    }


def _mark_misplaced(
    session: Session,
    batch: Batch,
    replies: Sequence[Reply],
    wrong: Mapping[int, str],
    requests: int,
    *,
    proven: Collection[str] = (),
) -> list[Reply]:
    """Mark the replies at the positions `wrong` as MISPLACED; if there are many, also all others without proof.

    `proven` keys have a reply with the echo of their own request.
    """
    if not wrong:
        return list(replies)
    count = len({replies[position].key for position in wrong})
    every = count > max(WHOLE_BATCH_SHARE * requests, WHOLE_BATCH_LEAST)
    log.warning(
        "%s: %d replies answer another request of the batch%s",
        session.describe(batch),
        count,
        "; all its replies are rejected" if every and not proven else "",
    )
    return [
        reply._replace(reason=Reason.MISPLACED, text="", detail=f"its text answers {wrong.get(position, 'another')}")
        if reply.reason is Reason.ACCEPTED and (position in wrong or (every and reply.key not in proven))
        else reply
        for position, reply in enumerate(replies)
    ]


def _requests(session: Session, batch: Batch, keys: Collection[str], answered: Iterable[str]) -> dict[str, str]:
    """Map the key of each request of a batch to the last characters of its dialogue: those that are compared.

    `answered` are the keys of all accepted replies. The batch may no longer hold a conversation, because another batch
    brought its text. Its request is still included if it has a reply: that text may belong to a key that is held.
    A judgement is compared by the turn that it judges.
    """
    if batch.step.stage is Stage.AUDIT:
        numbers = sorted(parsed.number for key in {*keys, *answered} if (parsed := parse_key(key)))
        turns = {one.number: " ".join(one.turns[-1]) for one in session.store.dialogues.judged(numbers)}
        return {key: turns[number][-COMPARED_CHARACTERS:] for key, number in session.keys(batch, numbers).items()}
    dialogues = zip(
        *[session.store.dialogues.held_texts(batch)] * batch.position, strict=True
    )  # one iterator, repeated: each tuple has the texts of one conversation
    found = dict(zip(keys, (" ".join(said)[-COMPARED_CHARACTERS:] for said in dialogues), strict=True))
    asked = {key: parsed.number for key in answered if key not in found and (parsed := parse_key(key))}
    if not asked:
        return found
    numbers = sorted(number for number in set(asked.values()) if number <= session.conversations)
    others = {number: key for key, number in session.keys(batch, numbers).items() if key in asked}
    for one in session.store.dialogues.read(list(others)):
        said = list(chain.from_iterable(one.turns))[: batch.position]
        if all(said):
            found[others[one.number]] = " ".join(said)[-COMPARED_CHARACTERS:]
    return found


def settle_late_results(session: Session, provider: Provider, batch: Batch, raw: bytes) -> None:
    """Settle a batch by results that arrived after it had ended without any.

    A text is accepted if the conversation has none yet, even if another batch was asked for it since. All other rows
    are superseded. A conversation that takes no text keeps the reason that the batch's first end gave it.
    """
    with session.store.transaction():
        ended, holders_before = session.store.reclaim_for_late_results(batch)
        keys, flags = session.keys(batch), session.settings.stage(batch.step.stage).retry_flags
        replies = parse_results(session, provider, batch, raw, keys, flags)
        brought = {keys[key] for key in accepted_keys(replies) if key in keys}
        holders = session.store.return_reclaimed(batch, holders_before, but=brought)
        if not brought and batch.state == BatchState.ABANDONED:
            # Write the first ending again: a kill may have left another one.
            why = batch.job.error or ""
            write_ending(session, batch, Ending(Reason.NOT_SENT, why, batch.state, why))
            book_unused_results(session, provider, batch, raw)
            return
        gone = {number: reason for number, reason in ended.items() if number not in brought}
        ending = Ending(Reason.MISSING, "no line came back", retry_flags=flags, gone=gone, late=True)
        settle(session, batch, session.keys(batch), replies, ending)
        for holder in holders:
            _release_unneeded(session, holder)


def _release_unneeded(session: Session, holder: Batch) -> None:
    """End a waiting batch that lost conversations to late results. Its other conversations go into another batch."""
    if holder.state not in WAITING_STATES:
        return
    why = "late results of an earlier batch brought texts that it asks for"
    if holder.job.intent_at is None:
        release_batch(session, holder, BatchState.REFUSED, error=why)
    else:
        abandon_batch(session, holder, why)


def book_unused_results(session: Session, provider: Provider, batch: Batch, raw: bytes) -> None:
    """Record the cost of late results whose texts are not needed. Every row is superseded."""
    from batchgen.engine.settlement.match import match_results  # here: it loads polars

    replies = [provider.reply(line, ()) for line in split_lines(raw)]
    usages = _add_prices(session, batch, match_results({}, replies, Reason.MISSING, "").usage)
    session.store.settle(batch, {}, usages, state=batch.state, max_attempts=1, collected_at=session.now())


def _add_prices(
    session: Session, batch: Batch, usage: Mapping[Reason, tuple[int, Usage]]
) -> dict[Reason, tuple[int, Usage, float | None]]:
    """Return (requests, tokens, USD) by reason; USD is None if the model's price is unknown."""
    rate: Rate | None = session.rate(batch.provider, batch.model)
    return {reason: (count, used, rate.usd(used) if rate else None) for reason, (count, used) in usage.items()}


def settle(session: Session, batch: Batch, keys: Mapping[str, int], replies: Sequence[Reply], ending: Ending) -> None:
    """Write the ending, then enter texts, failures, tokens, money and the batch's end in one transaction."""
    from batchgen.engine.settlement.match import match_results  # here: it loads polars

    write_ending(session, batch, ending)
    failpoint("ending_written")
    merged = match_results(keys, replies, ending.absent, ending.why)
    usages = _add_prices(session, batch, _add_first_outcomes(merged.usage, ending.gone))
    strangers = len(merged.unknown_keys) - len(ending.gone)
    if strangers > 0 or merged.keyless:
        log.warning(
            "%s: ignored %s for requests that it does not hold and %d without a key",
            session.describe(batch),
            pluralize(max(strangers, 0), "line"),
            merged.keyless,
        )
    session.store.settle(
        batch,
        merged.settled,
        usages,
        state=ending.state,
        max_attempts=session.settings.batches.max_attempts,
        collected_at=session.now(),
        error=ending.error,
        late_results_until=ending.awaited_until,
    )
    failpoint("batch_settled")
    done = sum(reply.reason is Reason.ACCEPTED for reply in merged.settled.values())
    level = log.info if done or not batch.requests else log.warning
    reasons = ", ".join(f"{count} {reason}" for reason, (count, _) in sorted(merged.usage.items()))
    became = f" ({reasons})" if reasons else ""
    level("%s: %d of %d accepted%s", session.describe(batch), done, batch.requests, became)


def _add_first_outcomes(
    usage: Mapping[Reason, tuple[int, Usage]], gone: Mapping[int, Reason]
) -> dict[Reason, tuple[int, Usage]]:
    """Add the reasons of the first end, for conversations that took no late text, to the outcomes of a batch."""
    found = dict(usage)
    for reason, count in Counter(gone.values()).items():
        if reason is not Reason.NOT_SENT:  # nothing was bought, so there is no outcome
            more, used = found.get(reason, (0, Usage()))
            found[reason] = (count + more, used)
    return found
