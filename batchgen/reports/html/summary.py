"""The figures at the top of the page: good conversations, what they cost, and what is wrong with the others. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.core.dialogue import STAGES
from batchgen.reports.html.conversations import TextStatistics
from batchgen.reports.html.facts import RunFacts, StepFacts, most_frequent_first


class Summary(NamedTuple):
    """Counts of conversations, and USD. A conversation is good if it is complete and has no flag; JUDGED_FLAGS do
    not count, because they depend on how many turns the audit judges.

    `flags` counts the flagged conversations by label; one conversation can have several. `reasons` counts the rejected
    ones by reason. `usd` is what was billed for everything, `estimated` the estimate of the same batches. `at_least` is
    "≥ " if a price is unknown. `models` names, by stage, the models that wrote accepted texts.
    """

    conversations: int
    good: int
    flagged: int
    flags: Mapping[str, int]
    rejected: int
    reasons: Mapping[str, int]
    open: int
    in_flight: int
    usd: float
    usd_per_good: float | None
    estimated: float
    at_least: str
    models: Mapping[str, Sequence[str]]


def summarize(facts: RunFacts, texts: TextStatistics, bill: Mapping[str, Any]) -> Summary:
    """Return the figures. `bill` comes from `facts.receipt_table`."""
    total, conversations = bill["total"], facts.answer["conversations"]
    good, rejected = texts.complete - texts.flagged, facts.answer["rejected"]
    reasons = Counter[str]()
    for step in facts.steps:
        reasons.update(step.left)
    return Summary(
        conversations=conversations,
        good=good,
        flagged=texts.flagged,
        flags=dict(sorted(texts.conversations.items(), key=lambda item: (-item[1], item[0]))),
        rejected=rejected,
        reasons=most_frequent_first(reasons),
        open=max(conversations - texts.complete - rejected, 0),  # a tick may run between the two readings
        in_flight=sum(step.in_flight for step in facts.steps),
        usd=total["usd"],
        usd_per_good=total["usd"] / good if good else None,
        estimated=total["estimated"],
        at_least=total["at_least"],
        models=_writers_by_stage(facts.steps),
    )


def _writers_by_stage(steps: Sequence[StepFacts]) -> dict[str, list[str]]:
    """Return the models of each stage in the order of the rounds. A stage without a text is left out."""
    found = {
        str(stage): list(dict.fromkeys(name for step in steps if step.step.stage is stage for name in step.writers))
        for stage in STAGES
    }
    return {stage: models for stage, models in found.items() if models}
