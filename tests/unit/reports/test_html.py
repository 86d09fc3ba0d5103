"""Test the HTML report: it shows the numbers of the store, at any time of a run, and changes nothing."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchgen.core.errors import SetupError
from batchgen.dataset.quality.flags import LABELS
from batchgen.ledger.receipt import receipt
from batchgen.reports.html import page as paging
from batchgen.reports.html.conversations import (
    READ_FIRST,
    read_texts,
)
from batchgen.reports.html.facts import collect_facts, receipt_table
from batchgen.reports.html.summary import Summary, summarize
from batchgen.reports.html.write import report
from batchgen.runtime.files import Layout, exclusive_lock
from benchmarks.commands import measured
from tests.support.bench import Bench, seeds
from tests.support.invariants import ledger
from tests.support.report_page import (
    CHINESE_ID,
    COUNT,
    EQUAL_ID,
    Page,
)

if TYPE_CHECKING:
    from tests.support.scene import Make
from tests.support.report_page import ROUNDED, known, open_session, written

pytestmark = pytest.mark.usefixtures("drawn_here")


@pytest.mark.slow
def test_a_report_stays_under_200_mb(finished: Bench) -> None:
    """The charts are drawn in another process, which takes as much memory as all the rest."""
    peak = measured(finished.root, "report").peak_mb
    assert peak < 200


@pytest.mark.slow
def test_the_command_says_where_the_page_is(finished: Bench) -> None:
    value, page = written(finished)
    assert value == {
        "output": str(finished.root / "data" / "report.html"),
        "bytes": (finished.root / "data" / "report.html").stat().st_size,
        "shown": COUNT,
        "conversations": COUNT,
        "complete": COUNT - 1,
        "rejected": 1,
    }
    assert page.texts("h1") == ["Finished: 9 of 12 conversations (75.0 %) are good"]
    assert f"{COUNT} conversations shown" in finished.run("report").out


@pytest.mark.slow
def test_the_summary_says_what_is_good_what_it_cost_and_what_is_wrong(finished: Bench, page: Page) -> None:
    """Of 12 conversations one is rejected; the Chinese one and the one with an equal correction have flags."""
    with closing(open_session(finished.root)) as one:
        paid = receipt(one.store, one.settings)
        found = summarize(collect_facts(one), read_texts(one, 2000), receipt_table(paid))
    total = finished.run("receipt", "--json").json["total"]
    assert found == Summary(
        conversations=12,
        good=9,
        flagged=2,
        flags={
            "correction_equals_answer": 1,
            "language_drift:answer": 1,
            "language_drift:correction": 1,
            "language_drift:question": 1,
        },
        rejected=1,
        reasons={"empty": 1},
        open=0,
        in_flight=0,
        usd=total["usd"],
        usd_per_good=total["usd"] / 9,
        estimated=total["estimated_usd"],
        at_least="",
        models={
            "question": ["gemini-2.5-flash-lite (gemini)"],
            "answer": ["meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo (together)"],
            "correction": ["gemini-2.5-flash-lite (gemini)"],
        },
    )
    assert page.texts("strong")[1:] == [
        paging.format_usd(total["usd"]),
        f"${total['usd'] / 9:.6f}",
        "2",
        "1",
    ]
    chips = [(found, "".join(text)) for tag, found, text in page.elements if tag == "button" and "chip" in str(found)]
    summary = [(found.get("data-flag") or found.get("data-reason"), text) for found, text in chips][:5]
    assert summary == [
        ("correction_equals_answer", "correction equals answer 1"),
        ("language_drift:answer", "language drift · answer 1"),
        ("language_drift:correction", "language drift · correction 1"),
        ("language_drift:question", "language drift · question 1"),
        ("empty", "empty 1"),
    ]


@pytest.mark.slow
def test_the_conversations_to_read_first_have_every_flag_once(page: Page) -> None:
    items = {item["i"]: item for item in page.unpacked()["items"]}
    links = [(found["href"] or "")[1:] for tag, found, _ in page.elements if tag == "a"]
    first = [name for name in links if name in items]
    assert len(first) == len(set(first)) == READ_FIRST
    assert set(first[:2]) == {EQUAL_ID, CHINESE_ID}
    assert all(items[name]["s"] == "complete" for name in first)
    assert "Ten conversations to read first" in page.texts("h2")
    assert [found["id"] for tag, found, _ in page.elements if tag == "article"][: len(first)] == first


@pytest.mark.parametrize(
    ("usd", "words"),
    [(None, "unknown"), (0.0, "$0.0000"), (2e-7, "< $0.0001"), (0.00012345, "$0.000123"), (0.25, "$0.2500")],
)
def test_what_one_conversation_costs(usd: float | None, words: str) -> None:
    assert paging.format_small_usd(usd) == words


@pytest.mark.slow
def test_steps_say_what_the_store_holds(finished: Bench) -> None:
    """Compare each number with plain SQL."""
    rows = ledger(finished)
    entered = COUNT
    for step in known(finished).steps:
        at = step.step.position
        batches = [row for row in rows.batches if row["position"] == at]
        done = sum(1 for place, (batch, _) in rows.texts.items() if place % 256 == at and batch is not None)
        left = Counter(row["reason"] for row in rows.conversations if row["reason"] and row["position"] == at)
        assert (step.entered, step.done, step.left) == (entered, done, left)
        assert step.entered == step.done + step.rejected + step.in_flight + step.ready
        assert step.requests == sum(row["requests"] for row in batches)
        assert step.requests == step.accepted + sum(step.failed.values())
        assert step.models == sorted({f"{row['model']} ({row['provider']})" for row in batches})
        entered = done
    by_name = {step.name: step for step in known(finished).steps}
    assert by_name["round 2 answer"].failed == {"truncated": 1}
    assert by_name["round 3 answer"].failed == {"empty": 3}
    assert by_name["round 3 answer"].left == {"empty": 1}
    assert all(step.writers == step.models for step in by_name.values())
    assert by_name["round 3 answer"].yielded == pytest.approx((COUNT - 1) / (COUNT + 2))


@pytest.mark.slow
def test_report_receipt_and_status_agree_to_the_cent(finished: Bench, page: Page) -> None:
    total = finished.run("receipt", "--json").json["total"]
    assert total["usd"] == pytest.approx(finished.status()["cost"]["spent_usd"], abs=1e-6)
    cells = page.texts("td")
    assert cells.count(paging.format_usd(total["usd"])) == 1
    assert paging.format_integer(total["input_tokens"]) in cells
    assert paging.format_usd(total["failed_usd"] + total["superseded_usd"]) in cells


@pytest.mark.slow
def test_an_unknown_price_is_a_lower_bound_and_said(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure('rounds = 2\ntogether.models = ["new/model"]\n')
    assert bench.prepare(seeds(2)).code == 0
    bench.ticks()
    _, page = written(bench)
    assert any("new/model is unknown" in text for text in page.texts("p"))
    total = bench.run("receipt", "--json").json["total"]
    assert total["at_least"]
    assert f"≥ {paging.format_usd(total['usd'])}" in page.texts("td")


@pytest.mark.slow
def test_questions_that_came_along_are_counted_once(make_bench: Make) -> None:
    bench = make_bench()
    bench.configure("[correction]\nask_next = true\n")
    assert bench.prepare(seeds(3)).code == 0
    bench.ticks()
    by_name = {step.name: step for step in known(bench).steps}
    along = by_name["round 3 question"]
    assert (along.entered, along.done, along.brought, along.requests, along.accepted) == (3, 3, 3, 0, 0)
    assert along.models == along.writers == by_name["round 2 correction"].models
    assert by_name["round 2 correction"].accepted == 3
    assert "+3 without a request" in written(bench)[1].texts("span")


@pytest.mark.slow
def test_a_model_whose_requests_all_failed_wrote_nothing(make_bench: Make) -> None:
    llama, qwen = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"
    bench = make_bench()
    bench.configure(f'rounds = 2\ntogether.models = ["{llama}", "{qwen}"]\n')
    bench.service.faults.rows("text", key=r"\.r2\.answer\.a1\.", text="")
    assert bench.prepare(seeds(2)).code == 0
    for stage in ("question", "answer"):
        assert bench.run("submit", "--stage", stage).code == 0
        bench.service.world.advance(60)
        assert bench.run("collect").code == 0
    assert bench.run("switch", "together", qwen).code == 0
    bench.ticks()
    (answers,) = [step for step in known(bench).steps if step.name == "round 2 answer"]
    assert answers.models == [f"{qwen} (together)", f"{llama} (together)"]
    assert answers.writers == [f"{qwen} (together)"]
    assert page_models(written(bench)[1])["answers by "] == answers.writers


def page_models(page: Page) -> dict[str, list[str]]:
    """The first model of each stage that the top of the page names, by the words before it."""
    found: dict[str, list[str]] = {}
    for at, (tag, _, text) in enumerate(page.elements):
        if tag == "li" and "".join(text).endswith("s by "):
            found["".join(text)] = ["".join(page.elements[at + 1][2])]
    return found


def test_flags_are_those_of_an_export(finished: Bench, page: Page) -> None:
    exported = finished.run("export", "--format", "aligner", "--output", str(finished.root / "all.jsonl"), "--json")
    flags = {attributes["data-flag"] for _, attributes, _ in page.elements if "data-flag" in attributes}
    assert flags == set(exported.json["flags"])
    assert "correction_equals_answer" in flags
    (equal,) = [item for item in page.unpacked()["items"] if item["i"] == EQUAL_ID]
    labels = page.unpacked()["labels"]
    assert "correction_equals_answer" in {labels[at][0] for at in equal["t"][0][3]}
    assert [label for label, _ in labels] == list(LABELS)


def test_small_shares_are_never_nothing_and_large_ones_never_all() -> None:
    assert [paging.format_share(value) for value in (None, 0.0, 0.0004, 0.0123, 0.9999, 1.0)] == [
        "\N{EN DASH}",
        "0 %",
        "< 0.1 %",
        "1.2 %",
        "> 99.9 %",
        "100 %",
    ]


@pytest.mark.slow
def test_a_page_can_be_written_before_anything_is_sent(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    _, page = written(bench)
    assert page.texts("h1") == ["Running: 0 of 3 conversations (0 %) are good"]
    assert not [text for text in page.texts("h2") if text.endswith("read first")]
    assert "No batch was submitted yet." in page.texts("p")
    assert "No conversation is complete yet." in page.texts("p")
    assert {item["s"] for item in page.unpacked()["items"]} == {"open"}
    assert ROUNDED not in "".join(page.texts("p"))


@pytest.mark.slow
def test_a_page_in_the_middle_says_what_is_in_flight(make_bench: Make) -> None:
    bench = make_bench(job_seconds=1000.0)
    bench.prepare(seeds(3))
    assert bench.run("submit", "--stage", "question").code == 0
    assert [step.in_flight for step in known(bench).steps] == [3, 0, 0, 0, 0, 0]
    _, page = written(bench)
    assert {tuple(item["w"]) for item in page.unpacked()["items"]} == {(2, "question", "in flight")}
    assert page.texts("dt") == ["Cost", "Flagged", "Rejected", "In progress"]
    assert page.texts("strong")[1:] == ["$0.0000", "0", "0", "3"]


@pytest.mark.slow
def test_a_report_works_while_another_command_holds_the_lock(finished: Bench) -> None:
    with exclusive_lock(Layout(finished.root)):
        assert written(finished)[0]["shown"] == COUNT


def test_a_report_changes_nothing_but_its_page(finished: Bench) -> None:
    def everything() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in finished.root.rglob("*") if path.is_file()}

    before = everything()
    written(finished)
    after = everything()
    assert after.pop(finished.root / "data" / "report.html").startswith(b"<!doctype html>")
    assert after == before


def test_nothing_prepared_is_said(bench: Bench) -> None:
    result = bench.run("report")
    assert result.code == 2
    assert "Nothing is prepared" in result.err
    assert not bench.root.exists()


@pytest.mark.parametrize("name", ["data/batchgen.sqlite", "page", "page.txt"])
def test_only_html_files_are_written(finished: Bench, name: str) -> None:
    """A typing error must not replace the store."""
    before = ledger(finished)
    result = finished.run("report", "--output", str(finished.root / name))
    assert result.code == 2
    assert "ends in .html: --output FILE.html" in result.err
    assert ledger(finished) == before


def test_a_folder_is_no_page(finished: Bench) -> None:
    (finished.root / "page.html").mkdir()
    with closing(open_session(finished.root)) as one, pytest.raises(SetupError):
        report(one, finished.root / "page.html", 10)
