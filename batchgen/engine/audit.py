"""Choose the turns that the audit judges, and make their judgements ready as soon as the turns are finished.

A judgement is a request like any other: it is submitted, collected, retried and paid by the same code.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import orjson

from batchgen.core.dialogue import STAGES, Judgement, Stage, Step, audit_steps
from batchgen.core.errors import SetupError
from batchgen.core.judging import ORDERS
from batchgen.dataset.manifest import add_facts
from batchgen.engine.session import Session
from batchgen.ledger.pins import pinned_choice
from batchgen.ledger.rows import AUDIT_FACT, ConversationState
from batchgen.runtime.settings import PROVIDERS, ModelChoice

DEFAULT_SAMPLE = 100  # conversations
SEED = 20_000  # any fixed number: the same run draws the same sample
_ENTERED_FACT = "audit_entered"  # the sample whose turns are all entered already: a tick need not look again


class Sample(NamedTuple):
    """Which conversations are judged: the first `size` in an order that `seed` gives. Every round of each is judged.

    A conversation that was rejected before a round is replaced there by the next one of the order.
    """

    size: int
    seed: int = SEED


def begin_audit(session: Session, size: int | None, model: str | None) -> None:
    """Begin the audit or extend it, and make the judgements of all finished turns ready.

    `size` None keeps the sample, or takes DEFAULT_SAMPLE. `model`, as PROVIDER:MODEL, is the judge from now on. Raises
    SetupError for another form of a name, and KeyRefused or UnknownModel if no judge can be asked.
    """
    choice, begun = _parse_judge(model) if model else None, sample_of(session)
    wanted = size or (begun.size if begun else DEFAULT_SAMPLE)
    if choice is not None and choice != pinned_choice(session.store, session.settings, Stage.AUDIT):
        session.pin(Stage.AUDIT, [choice])
    elif begun is None or wanted > begun.size:  # otherwise the figures are shown, also without a key
        session.pin_model(Stage.AUDIT)
    _set_sample(session, wanted)
    enter_finished_turns(session)


def _parse_judge(model: str) -> ModelChoice:
    choice = ModelChoice.parse(model)
    if choice.provider not in PROVIDERS or not choice.model:
        do = f"Providers: {', '.join(PROVIDERS)}."
        raise SetupError(f"--model must be PROVIDER:MODEL, not {model}.", do=do)
    return choice


def sample_of(session: Session) -> Sample | None:
    """Return the sample of the run's audit, None if none was begun."""
    fact = session.store.fact(AUDIT_FACT)
    return Sample(**orjson.loads(fact)) if fact else None


def _set_sample(session: Session, size: int) -> None:
    """Set the size of the sample, durably and beside the requests, so that `rebuild` knows it. It never shrinks."""
    before = sample_of(session)
    sample = Sample(max(size, before.size if before else 0))
    if sample != before:
        text = orjson.dumps(sample._asdict()).decode()
        add_facts(session.layout, {AUDIT_FACT: text})
        session.store.set_fact(AUDIT_FACT, text)


def enter_finished_turns(session: Session) -> int:
    """Make the judgements of finished turns of the sample ready. Returns how many are new."""
    sample = sample_of(session)
    if sample is None or session.store.fact(_ENTERED_FACT) == str(sample.size):
        return 0
    chosen, known = _Chosen(session, sample), set(session.store.dialogues.judgements())
    new, complete = 0, True
    for step in audit_steps(session.settings.rounds):
        states = chosen.for_round(step.round)
        finished = [one.number for one in states if one.position >= _position_after(step)]
        numbers = [Judgement(number, step.round, order).number for number in finished for order in ORDERS]
        numbers = sorted(set(numbers) - known)
        if numbers:
            session.store.enter_judgements(numbers, step.position)
        new += len(numbers)
        complete &= len(finished) == len(states)
    if complete:
        session.store.set_fact(_ENTERED_FACT, str(sample.size))
    return new


def _position_after(step: Step) -> int:
    """Return the position of a conversation whose round is finished."""
    return step.round * len(STAGES)


class _Chosen:
    """The conversations of a sample, round by round. Reads as many states as it needs."""

    def __init__(self, session: Session, sample: Sample) -> None:
        self._session, self._size = session, min(sample.size, session.conversations)
        self._drawn, self._order = list[ConversationState](), self._draw(sample.seed)

    def _draw(self, seed: int) -> Iterator[ConversationState]:
        """Yield the states of all conversations, in an order that does not depend on the size of the sample."""
        generator, drawn, last = random.Random(seed), set[int](), self._session.conversations  # noqa: S311 - no secret
        while len(drawn) < last:  # not a shuffled list, which would be as long as the run
            number = generator.randint(1, last)
            if number not in drawn:
                drawn.add(number)
                yield from self._session.store.dialogues.conversation_states(number, number)

    def for_round(self, number: int) -> list[ConversationState]:
        """Return the conversations whose round `number` is judged once it is finished."""
        found, at = list[ConversationState](), 0
        while len(found) < self._size:
            if at == len(self._drawn):
                drawn = next(self._order, None)
                if drawn is None:
                    break
                self._drawn.append(drawn)
            state = self._drawn[at]
            if state.reason is None or state.position >= number * len(STAGES):
                found.append(state)
            at += 1
        return found
