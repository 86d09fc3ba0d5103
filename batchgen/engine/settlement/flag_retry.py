"""Reject texts with a quality flag for which the configuration asks again (`retry_flags` of a stage).

Only flags that need nothing but one dialogue are possible. Flags that need the whole dataset (usual lengths,
near-duplicates) cannot be computed when a batch comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

from batchgen.core.dialogue import Conversation, Stage, Turn
from batchgen.core.outcomes import Reason, Reply
from batchgen.dataset.manifest import instructions_at, known_facts
from batchgen.engine.session import Session
from batchgen.ledger.rows import Batch


class _NewText(NamedTuple):
    """A dialogue whose last turn has the new text that `stage` wrote."""

    key: str
    stage: Stage
    dialogue: Conversation


def reject_flagged(session: Session, batch: Batch, replies: Sequence[Reply], names: Sequence[str]) -> list[Reply]:
    """Return `replies`. Accepted ones whose text has one of the flags `names` become FLAGGED, without text."""
    if not names:
        return list(replies)
    accepted = {reply.key: reply for reply in replies if reply.reason is Reason.ACCEPTED}
    asked_with = tuple(instructions_at(known_facts(session.layout), batch.number).values())
    raised = _flags_by_key(list(_new_texts(session, batch, accepted)), names, asked_with)
    return [
        reply._replace(reason=Reason.FLAGGED, text="", follow_up="", detail=", ".join(raised[reply.key]))
        if reply.reason is Reason.ACCEPTED and reply.key in raised
        else reply
        for reply in replies
    ]


def _new_texts(session: Session, batch: Batch, accepted: dict[str, Reply]) -> Iterator[_NewText]:
    """Yield one dialogue for each accepted text. A follow-up is a text of its own."""
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
    """Return the turns with the `text` that `stage` wrote. A question begins a new turn."""
    if stage is Stage.QUESTION:
        return (*turns, Turn(text, "", ""))
    return (*turns[:-1], turns[-1]._replace(**{stage.value: text}))


def _flags_by_key(
    written: Sequence[_NewText], names: Sequence[str], instructions: Sequence[str]
) -> dict[str, list[str]]:
    """Map each key to the flags that its texts have."""
    # Here: only a run with retry flags needs it.
    from batchgen.dataset.quality.flags import FLAGS, find_flag, turns_frame

    found: dict[str, list[str]] = {}
    for stage in {one.stage for one in written}:
        mine = [one for one in written if one.stage is stage]
        turns = turns_frame(_numbered(mine))
        last = [end - 1 for end in accumulate(len(one.dialogue.turns) for one in mine)]
        for name in names:
            if stage not in FLAGS[name].fields:
                continue
            hits = find_flag(name, turns, stage, instructions)
            for one, row in zip(mine, last, strict=True):
                if hits[row]:
                    found.setdefault(one.key, []).append(name)
    return found


def _numbered(written: Iterable[_NewText]) -> Iterator[Conversation]:
    """Number the dialogues anew. The flags tell conversations apart by number, and a follow-up repeats its own."""
    for number, one in enumerate(written):
        yield Conversation(number, one.dialogue.turns)
