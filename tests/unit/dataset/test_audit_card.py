"""Test what an export of an audited run says: the section of the card, and the flags that follow from the verdicts."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from batchgen.core.dialogue import FIRST_JUDGEMENT
from batchgen.core.judging import Winner
from batchgen.dataset.audit.table import audit_notes, audit_rows
from batchgen.dataset.quality.flags import JUDGED_FLAGS
from batchgen.ledger.migrations import TEXT_IDS
from batchgen.ledger.rows import AUDIT_FACT
from tests.support.audited_run import COUNT, winner_of
from tests.support.bench import Bench
from tests.support.finished_run import export, problems, records

NOT_WON = 3 + 6  # turns of WINNERS: of round 1 and of round 2
NOT_WORSE = 2 + 3


@pytest.fixture
def bench(audited_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """A copy of it."""
    shutil.copytree(audited_root, tmp_path / "run")
    return Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # no request is sent


@pytest.mark.slow
def test_flags_follow_from_the_winners(bench: Bench, tmp_path: Path) -> None:
    found = export(bench, "aligner", tmp_path / "turns.jsonl")
    assert (found["rows"], found["flags"]["correction_not_better"]) == (2 * COUNT, NOT_WON)
    assert found["flags"]["answer_not_worse"] == NOT_WORSE
    for name, count in (("correction_not_better", NOT_WON), ("answer_not_worse", NOT_WORSE)):
        left = export(bench, "aligner", tmp_path / f"{name}.jsonl", "--flags", f"drop:{name}")
        assert left["left_out"] == {name: count}
        kept = {(int(row["id"][-6:]), row["round"]) for row in records(tmp_path / f"{name}.jsonl")}
        bad = {Winner.ANSWER, Winner.TIE} | ({Winner.INCONSISTENT} if name == "correction_not_better" else set())
        assert kept == {(n, at) for n in range(1, COUNT + 1) for at in (1, 2) if winner_of(n, at) not in bad}
        assert problems(bench, tmp_path / f"{name}.jsonl") == []


def test_the_card_says_how_often_the_correction_wins(bench: Bench, tmp_path: Path) -> None:
    export(bench, "messages", tmp_path / "out", "--flags", "drop:correction_not_better")
    text = (tmp_path / "out" / "README.md").read_text("utf-8")
    (section,) = [part for part in text.split("\n## ") if part.startswith("Is the correction better?")]
    for words in (
        "Answer and correction of 24 turns were compared by zai-org/GLM-5.3-Flash. The turns are those of 12 conv",
        "conversations, drawn at random from all 12, also from those that this export leaves out.",
        "is described in batchgen's docs/audit.md.",
        "| turns | judged | correction | answer | tie | inconsistent | correction wins (95 %) | of like length |",
        "| round 1, seeds | 12 | 9 | 1 | 1 | 1 (8 %) | 75 % (47 % to 91 %) of 12 | 25 % (5 % to 70 %) of 4 |",
        "| round 2 | 12 | 6 | 2 | 1 | 3 (25 %) | 50 % (25 % to 75 %) of 12 |",
        "- Inconsistent: the judge changed its mind with the order in 17 % of the turns",
    ):
        assert words in section, words
    assert "](" not in section
    assert "| `correction_not_better` | judged: the correction did not win in both orders | 0 | 0.0% |" in text


@pytest.mark.parametrize("begun", [True, False])
def test_the_card_of_a_run_without_verdicts_says_nothing_of_them(bench: Bench, tmp_path: Path, *, begun: bool) -> None:
    with closing(sqlite3.connect(bench.root / "data" / "batchgen.sqlite")) as database, database:
        database.execute("DELETE FROM texts WHERE text_id >= ?", (FIRST_JUDGEMENT * TEXT_IDS,))
        if not begun:
            database.execute("DELETE FROM run_facts WHERE key = ?", (AUDIT_FACT,))
    found = export(bench, "messages", tmp_path / "out")
    assert "Is the correction better?" not in (tmp_path / "out" / "README.md").read_text("utf-8")
    assert not JUDGED_FLAGS & found["flags"].keys()


def record(rounds: int, *, corrector: bool = False) -> dict[str, Any]:
    """The figures of an audit whose only verdict in each round is for the correction."""
    found = {"judged": 1, "win_rate": 1.0, "win_rate_95": [0.2065, 1.0]}
    none = {"judged": 0, "win_rate": None, "win_rate_95": None}
    one = {**dict.fromkeys(Winner, 0), "correction": 1, **found, "inconsistent_share": 0.0, "like_length": none}
    each = [{"round": number, **one} for number in range(1, rounds + 1)]
    return {"rounds": each, "later": one, "judged": rounds, "judge_is_corrector": corrector, "preferred_place": {}}


def test_a_sum_of_later_rounds_is_shown_if_there_are_several() -> None:
    assert [row[0] for row in audit_rows(record(2))] == ["round 1, seeds", "round 2"]
    assert [row[0] for row in audit_rows(record(3))] == ["round 1, seeds", "round 2", "round 3", "after the seeds"]
    assert audit_rows(record(1))[0][-2:] == ("100 % (21 % to 100 %) of 1", "-")  # Wilson's interval for 1 of 1


def test_only_a_judge_of_its_own_texts_is_warned_of() -> None:
    assert audit_notes(record(1)) == []
    (warning,) = audit_notes(record(1, corrector=True))
    assert "it may prefer its own texts" in warning
