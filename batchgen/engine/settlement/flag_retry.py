"""Reject texts with quality flags that the configuration lists as reasons to ask again (`retry_flags` of a stage).

Only flags that depend on one dialogue are possible: usual lengths and near-duplicates need the whole dataset, which
does not exist yet when a batch comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from batchgen.core.dialogue import Conversation, Stage, Turn
from batchgen.core.outcomes import Reason, Reply
from batchgen.engine.session import Session
from batchgen.ledger.rows import Batch


class _NewText(NamedTuple):
    """A dialogue with one new text, which belongs to the last turn."""

    key: str
    stage: Stage
    dialogue: Conversation


def reject_flagged(session: Session, batch: Batch, replies: Sequence[Reply], names: Sequence[str]) -> list[Reply]:
    """Return `replies`, as FLAGGED where the accepted text has one of the flags `names`."""
    if not names:
        return list(replies)
    accepted = {reply.key: reply for reply in replies if reply.reason is Reason.ACCEPTED}
    raised = _flags_by_key(list(_new_texts(session, batch, accepted)), names)
    return [
        reply._replace(reason=Reason.FLAGGED, text="", follow_up="", detail=", ".join(raised[reply.key]))
        if reply.reason is Reason.ACCEPTED and reply.key in raised
        else reply
        for reply in replies
    ]


def _new_texts(session: Session, batch: Batch, accepted: dict[str, Reply]) -> Iterator[_NewText]:
    stage, names = batch.step.stage, session.names()
    held = [row.number for row in session.store.held_conversations(batch.number)]
    for one in session.store.dialogues.read(held):
        key = names.key(one.number, batch.step, batch.attempt)
        reply = accepted.get(key)
        if reply is None:
            continue
        turns = _add_text(one.turns, stage, reply.text)
        yield _NewText(key, stage, Conversation(one.number, turns))
        if reply.follow_up:
            yield _NewText(key, Stage.QUESTION, Conversation(one.number, (*turns, Turn(reply.follow_up, "", ""))))


def _add_text(turns: tuple[Turn, ...], stage: Stage, text: str) -> tuple[Turn, ...]:
    """Return the turns with `text` added as what `stage` wrote: a question begins a new turn."""
    if stage is Stage.QUESTION:
        return (*turns, Turn(text, "", ""))
    return (*turns[:-1], turns[-1]._replace(**{stage.value: text}))


def _flags_by_key(written: Sequence[_NewText], names: Sequence[str]) -> dict[str, list[str]]:
    """Return the flags that each new text has, by key."""
    from batchgen.dataset.quality.flags import FLAGS, turns_frame  # here: a run without retry flags needs none of it

    found: dict[str, list[str]] = {}
    for stage in {one.stage for one in written}:
        mine = [one for one in written if one.stage is stage]
        turns = turns_frame(_numbered(mine))
        last = [end - 1 for end in accumulate(len(one.dialogue.turns) for one in mine)]
        for name in names:
            if stage not in FLAGS[name].fields:
                continue
            hits = FLAGS[name].find(turns, stage)
            for one, row in zip(mine, last, strict=True):
                if hits[row]:
                    found.setdefault(one.key, []).append(name)
    return found


def _numbered(written: Iterable[_NewText]) -> Iterator[Conversation]:
    """Give each dialogue a number of its own, by which the flags tell conversations apart."""
    for number, one in enumerate(written):
        yield Conversation(number, one.dialogue.turns)
