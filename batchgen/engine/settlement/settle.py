"""Raw result lines -> the store: judged, placed, matched, and settled in one transaction. No network.

How a batch ended is kept beside its result files (`BATCH.ending.json`), so that the store can be built again from what
was sent and what came back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from batchgen.core.dialogue import parse_key
from batchgen.core.jsonl import split_lines
from batchgen.core.outcomes import Reason, Reply, Usage, accepted_keys, validate_text
from batchgen.core.pricing import Rate
from batchgen.core.prompts import reply_fields
from batchgen.core.wording import pluralize
from batchgen.engine.session import Session
from batchgen.engine.settlement.flag_retry import reject_flagged
from batchgen.engine.settlement.swap_detection import (
    COMPARED_CHARACTERS,
    WHOLE_BATCH_LEAST,
    WHOLE_BATCH_SHARE,
    find_swapped_replies,
)
from batchgen.ledger.rows import WAITING_STATES, Batch, BatchState
from batchgen.providers.base import Provider
from batchgen.runtime.failpoints import failpoint
from batchgen.runtime.files import write_durably
from batchgen.runtime.logging_setup import log


class Ending(NamedTuple):
    """How a batch ends: what a request without a row means and why, the batch's state and the job's own error.

    `refused` are conversations that a batch which bought nothing leaves behind: number -> why. `retry_flags` are the
    quality flags for which its texts were not accepted: the configuration may say otherwise when the store is rebuilt.
    `late`: it had ended without results, and they came after all. `gone` are the conversations for which no text was
    taken from them: number -> what the first end meant for it. All others took theirs. `awaited_until`: till then the
    results of a batch that ended without any may come.
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


# What of the ledger is kept with an ending: no request or result says it.
REMOTE_FIELDS = ("key_fingerprint", "remote_file", "remote_id")
LEDGER_FIELDS = ("provider", "model", "estimated_usd", "reserved_usd", *REMOTE_FIELDS)
LATE_RESULTS_SECONDS = (
    72 * 3600.0
)  # how long the results of a job that was given up, cancelled or lost may come after all


def read_ending(path: Path) -> Ending | None:
    """The ending kept in `path`, None when the batch has not ended."""
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
    """What the ending in `path` keeps of the ledger; None for what an older program did not keep, or without one."""
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
    """End a batch that bought nothing: its ending is kept, its conversations are ready again but for the `refused`.

    `late_results_until`: till then it may turn out to have bought something after all.
    """
    ending = Ending(Reason.NOT_SENT, error, state, error, dict(refused or {}), awaited_until=late_results_until)
    write_ending(session, batch, ending)
    session.store.release(batch, state, error=error, refused=refused, late_results_until=late_results_until)


def abandon_batch(session: Session, batch: Batch, error: str) -> None:
    """End a batch whose create call brought no job to light. Its job may turn up."""
    until = (batch.job.intent_at or session.now()) + LATE_RESULTS_SECONDS
    release_batch(session, batch, BatchState.ABANDONED, error=error, late_results_until=until)


def forget_ending(session: Session, batch: Batch) -> None:
    """Of a batch that is created, or was: a kill may have left an ending that the store knows nothing of, by which
    `rebuild` would buy its conversations again.
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
    """The lines of a batch's result files, judged: by finish reason, by what a turn may be, by whom they answer, and
    by the quality flags that are reasons to ask again. `keys` are the batch's (`session.keys`), in order.
    """
    judged = parse_result_lines(provider, batch, raw)
    return reject_flagged(session, batch, _reject_swapped(session, batch, keys, judged), retry_flags)


def parse_result_lines(provider: Provider, batch: Batch, raw: bytes) -> list[Reply]:
    """The lines of a batch's result files, judged one by one."""
    stage = batch.step.stage
    fields, read = reply_fields(stage, follow_up=bool(batch.plan.follow_up)), provider.reply
    return [validate_text(stage, read(line, fields)) for line in split_lines(raw)]


def _reject_swapped(session: Session, batch: Batch, keys: Collection[str], replies: Sequence[Reply]) -> list[Reply]:
    """Replies whose text belongs to another request of this batch are MISPLACED; beyond a share of them, all are."""
    accepted = {reply.key: reply.text for reply in replies if reply.reason is Reason.ACCEPTED}
    requests = _requests(session, batch, keys, accepted)
    wrong = find_swapped_replies(requests, accepted)
    if not wrong:
        return list(replies)
    every = len(wrong) > max(WHOLE_BATCH_SHARE * len(requests), WHOLE_BATCH_LEAST)
    log.warning(
        "%s: %d replies answer another request of the batch%s",
        session.describe(batch),
        len(wrong),
        "; none of its keys is believed" if every else "",
    )
    return [
        reply._replace(reason=Reason.MISPLACED, text="", detail=f"its text answers {wrong.get(reply.key, 'another')}")
        if reply.reason is Reason.ACCEPTED and (every or reply.key in wrong)
        else reply
        for reply in replies
    ]


def _requests(session: Session, batch: Batch, keys: Collection[str], answered: Iterable[str]) -> dict[str, str]:
    """key -> the end of what the dialogue says so far, for every request of a batch: as much as is looked at.

    Requests that it holds no more, because their texts came from another batch, are known by their replies (`answered`
    are the keys of all): a text of theirs may stand under the key of one that it holds.
    """
    dialogues = zip(
        *[session.store.dialogues.held_texts(batch)] * batch.position, strict=True
    )  # one after the other, as read
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
    """Results that came after their batch had ended without any. A text is accepted where none is yet, even if another
    batch was asked for it since. All else is superseded: what the batch's end meant for a conversation stays.
    """
    with session.store.transaction():
        ended, lent = session.store.reclaim_for_late_results(batch)
        keys, flags = session.keys(batch), session.settings.stage(batch.step.stage).retry_flags
        judged = parse_results(session, provider, batch, raw, keys, flags)
        brought = {keys[key] for key in accepted_keys(judged) if key in keys}
        holders = session.store.return_reclaimed(batch, lent, but=brought)
        if not brought and batch.state == BatchState.ABANDONED:
            # As it ended: a kill may have left an ending that says otherwise.
            why = batch.job.error or ""
            write_ending(session, batch, Ending(Reason.NOT_SENT, why, batch.state, why))
            book_unused_results(session, provider, batch, raw)
            return
        gone = {number: reason for number, reason in ended.items() if number not in brought}
        ending = Ending(Reason.MISSING, "no line came back", retry_flags=flags, gone=gone, late=True)
        settle(session, batch, session.keys(batch), judged, ending)
        for holder in holders:
            _release_unneeded(session, holder)


def _release_unneeded(session: Session, holder: Batch) -> None:
    """Some of a batch's conversations need it no more. Where it was not created yet, its other ones go in another."""
    if holder.state not in WAITING_STATES:
        return
    why = "texts that it was to ask for came late from an earlier batch"
    if holder.job.intent_at is None:
        release_batch(session, holder, BatchState.REFUSED, error=why)
    else:
        abandon_batch(session, holder, why)


def book_unused_results(session: Session, provider: Provider, batch: Batch, raw: bytes) -> None:
    """What a late job cost. Nobody waits for its texts, so every line of it is superseded."""
    from batchgen.engine.settlement.match import match_results  # here: it loads polars

    replies = [provider.reply(line, ()) for line in split_lines(raw)]
    usages = _add_prices(session, batch, match_results({}, replies, Reason.MISSING, "").usage)
    session.store.settle(batch, [], usages, state=batch.state, max_attempts=1, collected_at=session.now())


def _add_prices(
    session: Session, batch: Batch, usage: Mapping[Reason, tuple[int, Usage]]
) -> dict[Reason, tuple[int, Usage, float | None]]:
    """(requests, tokens, USD) by reason; USD None where the model's price is unknown."""
    rate: Rate | None = session.rate(batch.model)
    return {reason: (count, used, rate.usd(used) if rate else None) for reason, (count, used) in usage.items()}


def settle(session: Session, batch: Batch, keys: Mapping[str, int], replies: Sequence[Reply], ending: Ending) -> None:
    """One transaction: texts, failures, tokens and money, and the end of the batch."""
    from batchgen.engine.settlement.match import match_results  # here: it loads polars

    write_ending(session, batch, ending)
    failpoint("ending_written")
    merged = match_results(keys, replies, ending.absent, ending.why)
    usages = _add_prices(session, batch, _add_first_outcomes(merged.usage, ending.gone))
    strangers = len(merged.unknown_keys) - len(ending.gone)
    if strangers > 0 or merged.keyless:
        log.warning(
            "%s: %s for requests that it does not hold and %d without a key are left aside",
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
    done = sum(one.reason is Reason.ACCEPTED for one in merged.settled)
    level = log.info if done or not batch.requests else log.warning
    reasons = ", ".join(f"{count} {reason}" for reason, (count, _) in sorted(merged.usage.items()))
    became = f" ({reasons})" if reasons else ""
    level("%s: %d of %d accepted%s", session.describe(batch), done, batch.requests, became)


def _add_first_outcomes(
    usage: Mapping[Reason, tuple[int, Usage]], gone: Mapping[int, Reason]
) -> dict[Reason, tuple[int, Usage]]:
    """The outcomes of a batch, with what its first end meant for conversations that took no text from it."""
    found = dict(usage)
    for reason, count in Counter(gone.values()).items():
        if reason is not Reason.NOT_SENT:  # which is no outcome: nothing was bought
            more, used = found.get(reason, (0, Usage()))
            found[reason] = (count + more, used)
    return found
