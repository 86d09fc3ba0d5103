"""The figures of an audit: how often the correction won, by round, with an interval and what weakens the figure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from batchgen.core.dialogue import FIRST_ROUND, Judgement, Stage, audit_steps
from batchgen.core.judging import ORDERS, AuditFigures, Winner, WinRate, audit_figures, of_like_length
from batchgen.dataset.audit.verdicts import JudgedTurn, judged_turns
from batchgen.ledger.pins import pinned_choice
from batchgen.ledger.rows import AUDIT_FACT
from batchgen.ledger.run import Run

_DIGITS = 4


def audit_record(run: Run) -> dict[str, Any] | None:
    """Return the figures as `audit --json` prints them; None if no audit was begun.

    `turns` are those that the sample has so far, `judged` those with verdicts in both orders. `open` requests have no
    verdict yet, `failed` ones are not asked again. `rounds` has one record for each round with judged turns, `later`
    one for all rounds after the seeds. Rates are shares from 0 to 1.
    """
    if not run.store.fact(AUDIT_FACT):
        return None
    entered = run.store.dialogues.judgements()
    judged = list(judged_turns(run))
    alike = _like_length(run, judged)
    by_round = {
        number: [turn for turn in judged if turn.round == number] for number in range(1, run.settings.rounds + 1)
    }
    later = [turn for turn in judged if turn.round >= FIRST_ROUND]
    judge = pinned_choice(run.store, run.settings, Stage.AUDIT)
    _, accepted, rejected = run.store.totals.counts_by_position()
    places = [step.position for step in audit_steps(run.settings.rounds)]
    done, failed = (sum(found.get(place, 0) for place in places) for found in (accepted, rejected))
    return {
        "judge": str(judge) if judge else None,
        "models": sorted({turn.model for turn in judged}),
        "judge_is_corrector": bool(_models_of(run, Stage.AUDIT) & _models_of(run, Stage.CORRECTION)),
        "conversations": len({Judgement.at(number).conversation for number in entered}),
        "turns": len(entered) // len(ORDERS),
        "judged": len(judged),
        "open": len(entered) - done - failed,
        "failed": failed,
        "rounds": [{"round": number, **_record(turns, alike)} for number, turns in by_round.items() if turns],
        "later": _record(later, alike) if later else None,
        "preferred_place": _preferred_places(judged),
    }


def _models_of(run: Run, stage: Stage) -> set[str]:
    """Return the models that are asked for a stage, or were asked."""
    written = {batch.model for batch in run.store.each_batch() if batch.step.stage is stage}
    choice = pinned_choice(run.store, run.settings, stage)
    return written | ({choice.model} if choice else set())


def _like_length(run: Run, judged: Sequence[JudgedTurn]) -> set[tuple[int, int]]:
    """Return (number, round) of the judged turns whose two replies are of like length."""
    wanted = {(turn.number, turn.round) for turn in judged}
    return {
        (one.number, number)
        for one in run.store.dialogues.read(sorted({turn.number for turn in judged}))
        for number, turn in enumerate(one.turns, start=1)
        if (one.number, number) in wanted and of_like_length(turn.answer, turn.correction)
    }


def _record(turns: Iterable[JudgedTurn], alike: set[tuple[int, int]]) -> dict[str, Any]:
    found: AuditFigures = audit_figures((turn.winner, (turn.number, turn.round) in alike) for turn in turns)
    return {
        **{str(won): count for won, count in found.winners.items()},
        **_rate_record(found.all),
        "inconsistent_share": _rounded(found.inconsistent_share),
        "like_length": _rate_record(found.like_length),
    }


def _rate_record(found: WinRate) -> dict[str, Any]:
    return {
        "judged": found.judged,
        "win_rate": _rounded(found.rate),
        "win_rate_95": [_rounded(end) for end in found.interval] if found.interval else None,
    }


def _preferred_places(judged: Iterable[JudgedTurn]) -> dict[str, int]:
    """Count the inconsistent turns in which the judge named the same place in both orders: its position bias."""
    places = Counter(
        turn.verdicts[0] for turn in judged if turn.winner is Winner.INCONSISTENT and len(set(turn.verdicts)) == 1
    )
    return {place: places[place] for place in ("first", "second")}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
