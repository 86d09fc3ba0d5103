"""Show what the stages are asked for one conversation. The same functions build the requests that are sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from batchgen.core.dialogue import STAGES, Conversation, Stage, Step, group_into_turns
from batchgen.core.prompts import Prompt, built_in_instructions
from batchgen.engine.session import Session
from batchgen.engine.submission.request_files import prompt_builder


class StagePrompt(NamedTuple):
    """The prompt of one step, and whether its instructions are those of the configuration."""

    step: Step
    own: bool
    prompt: Prompt


def prompts_of(session: Session, conversation: Conversation, stages: Sequence[Stage]) -> list[StagePrompt]:
    """Return the prompts of `stages` in the round that is written next, or in the last round.

    A text that is not written yet is its stage's name in brackets.
    """
    texts = [text for turn in conversation.turns for text in turn if text]
    number = min(len(texts) // len(STAGES) + 1, session.settings.rounds)
    found = []
    for step in (Step(number, stage) for stage in stages):
        missing = (f"[{Step.at(position).stage.upper()}]" for position in range(len(texts), step.position))
        shown = Conversation(conversation.number, tuple(group_into_turns([*texts[: step.position], *missing])))
        own = step.stage in session.settings.own_instructions()
        found.append(StagePrompt(step, own, prompt_builder(session, step)(shown)))
    return found


def describe(session: Session, conversation: Conversation, found: Sequence[StagePrompt]) -> tuple[dict[str, Any], str]:
    """Return (JSON value, text) of the prompts of a conversation."""
    identity = session.names().id(conversation.number) if session.conversations else "example"
    shows = session.settings.history.shows
    value = {
        "id": identity,
        "prompts": [
            {
                "round": one.step.round,
                "stage": str(one.step.stage),
                "provider": session.choice(one.step.stage).provider,
                "model": session.model(one.step.stage),
                "own_instructions": one.own,
                "built_in_instructions": built_in_instructions(one.step.stage, shows),
                "system": one.prompt.system,
                "messages": [message._asdict() for message in one.prompt.messages],
                "fields": list(one.prompt.fields),
                "echo": one.prompt.echo,
            }
            for one in found
        ],
    }
    return value, "\n\n".join(_text(session, identity, one) for one in found)


def _text(session: Session, identity: str, one: StagePrompt) -> str:
    """Return a prompt as people read it."""
    stage, asked = one.step.stage, one.prompt
    which = "instructions of the configuration" if one.own else "built-in instructions"
    lines = [f"== {identity}, {one.step}, {session.choice(stage)}, {which}", "-- system", asked.system]
    for message in asked.messages:
        lines += [f"-- {message.role}", message.text]
    fields = ", ".join(asked.fields) or "none, plain text"
    lines.append(f"-- JSON fields of the reply: {fields}{f'; echo {asked.echo}' if asked.echo else ''}")
    built_in = built_in_instructions(stage, session.settings.history.shows)
    lines += [f"-- built-in instructions, to copy into [{stage}] instructions", built_in]
    return "\n".join(lines)
