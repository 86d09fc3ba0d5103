"""Predict the length of replies, for `estimate`, `submit --dry-run` and the estimated cost in the ledger.

If a stage has accepted replies already, their mean length is used.
"""

from __future__ import annotations

from batchgen.core.dialogue import Stage, Step
from batchgen.core.prompts import reply_fields
from batchgen.engine.session import Session
from batchgen.ledger.rows import echo_ignored_fact

REASON_TOKENS = 35  # the reason of a verdict, one sentence, and the verdict
QUESTION_TOKENS = 25  # a follow-up question of 100 characters, as in a real run over the same data
CHARACTERS_PER_TOKEN = 4.5  # English
JSON_TOKENS = 8  # the name and quotes of one field of a reply in JSON
ECHO_TOKENS = 6  # the echo with its name and quotes; five in compact JSON with Gemma's tokenizer


def asks_follow_up(session: Session, step: Step) -> bool:
    """Return whether requests of `step` also ask for the next question: with `ask_next`, but not in the last round."""
    return (
        step.stage is Stage.CORRECTION and step.round < session.settings.rounds and session.settings.correction.ask_next
    )


def asks_echo(session: Session, stage: Stage) -> bool:
    """Return whether requests of `stage` fix an echo: where there is a schema, and no model has ignored it."""
    provider = session.provider(stage)
    return (
        session.settings.batches.echo
        and provider.echoes
        and bool(reply_fields(stage))
        and not session.store.fact(echo_ignored_fact(provider.name, session.model(stage)))
    )


def expected_output_tokens(session: Session, step: Step) -> float:
    """Return the expected output tokens of one reply of `step`, including a follow-up."""
    if not asks_follow_up(session, step):
        return expected_text_tokens(session, step.stage)
    measured = _mean_output_tokens(session, step.stage, follow_up=True)
    if measured:
        return measured
    counted_twice = ECHO_TOKENS if asks_echo(session, step.stage) and asks_echo(session, Stage.QUESTION) else 0
    return expected_text_tokens(session, step.stage) + expected_text_tokens(session, Stage.QUESTION) - counted_twice


def expected_text_tokens(session: Session, stage: Stage) -> float:
    """Return the expected output tokens of one reply of `stage` without a follow-up."""
    if measured := _mean_output_tokens(session, stage, follow_up=False):
        return measured
    if stage is Stage.CORRECTION and (both := _mean_output_tokens(session, stage, follow_up=True)):
        return max(both - expected_text_tokens(session, Stage.QUESTION), 1.0)
    wanted = session.settings.stage(stage)
    known = {Stage.QUESTION: QUESTION_TOKENS, Stage.AUDIT: REASON_TOKENS}
    text = known.get(stage, wanted.target_characters / CHARACTERS_PER_TOKEN)
    json = len(reply_fields(stage)) * JSON_TOKENS + (ECHO_TOKENS if asks_echo(session, stage) else 0)
    return min(text + json, wanted.max_output_tokens)


def _mean_output_tokens(session: Session, stage: Stage, *, follow_up: bool) -> float:
    """Return the mean output tokens of the accepted replies of `stage`, 0 if there are none."""
    positions = [step.position for step in session.all_steps() if step.stage is stage]
    requests, tokens = session.store.totals.output_of_accepted(positions, follow_up=follow_up)
    return tokens / requests if requests else 0.0
