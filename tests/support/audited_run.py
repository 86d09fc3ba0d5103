"""Make a finished run of two rounds whose judge gives the winners of a table, the same at every call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchgen.core.judging import Winner
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from tests.support.bench import Bench, seeds
from tests.support.grown_run import grow
from tests.support.report_page import SCRIPT

COUNT = 12
# Winners by (conversation, round). Every other turn is won by the correction: 9 of 12 seeds, 6 of 12 later turns.
WINNERS = {
    (1, 1): Winner.ANSWER,
    (2, 1): Winner.TIE,
    (3, 1): Winner.INCONSISTENT,
    (1, 2): Winner.ANSWER,
    (2, 2): Winner.TIE,
    (3, 2): Winner.INCONSISTENT,
    (4, 2): Winner.ANSWER,
    (5, 2): Winner.INCONSISTENT,
    (6, 2): Winner.INCONSISTENT,
}
LIKE_LENGTH = (1, 2, 3, 4)  # seeds whose answer is about as long as its correction


def winner_of(number: int, round_number: int) -> Winner:
    return WINNERS.get((number, round_number), Winner.CORRECTION)


class TableJudge:
    """Answers the audit by WINNERS, and everything else by the default script, whose corrections it remembers."""

    def __init__(self) -> None:
        self._corrections = {row["correction"] for row in audited_seeds()}

    def __call__(self, prompt: Prompt) -> str:
        text, asked = default_text(prompt), (prompt.schema or {}).get("properties", {})
        if "correction" in asked:
            self._corrections.add(json.loads(text)["correction"])
        if "verdict" not in asked:
            return text
        verdict, reason = self._judge(json.loads(prompt.messages[-1].content))
        return json.dumps({**json.loads(text), "reason": reason, "verdict": verdict})

    def _judge(self, pair: dict[str, Any]) -> tuple[str, str]:
        opening = pair["dialogue"][0]["user"] if pair["dialogue"] else pair["question"]
        number = int(opening.split("plant number ")[1].split()[0])
        correction, answer = "first", "second"
        if pair["second"] in self._corrections:
            correction, answer = answer, correction
        verdict = {
            Winner.CORRECTION: correction,
            Winner.ANSWER: answer,
            Winner.TIE: "tie",
            Winner.INCONSISTENT: "first",
        }[winner_of(number, 1 + len(pair["dialogue"]))]
        return verdict, f"Plant {number}, {SCRIPT}: the {verdict} one."


def audited_seeds() -> list[dict[str, str]]:
    rows = seeds(COUNT)
    for number in LIKE_LENGTH:
        rows[number - 1]["answer"] += " Never mind the soil."
    return rows


def audited(root: Path) -> Bench:
    """Make a finished run of these seeds, every turn of which is judged."""

    def prepare(bench: Bench) -> None:
        bench.configure("rounds = 2\n")
        assert bench.prepare(audited_seeds()).code == 0
        bench.ticks()
        assert bench.run("audit").code == 0
        while bench.run("audit", "--json").json["judged"] < 2 * COUNT:
            bench.service.world.advance(60)
            assert bench.run("collect", "--advance").code == 0

    return grow(root, prepare, backend=Scripted(TableJudge()))
