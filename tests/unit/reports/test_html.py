"""Test the HTML report: it shows the numbers of the store, escapes all texts, and loads nothing from a network."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.dialogue import Conversation, Turn
from batchgen.core.errors import SetupError
from batchgen.dataset.quality.flags import LABELS
from batchgen.engine.session import Session
from batchgen.ledger.receipt import receipt
from batchgen.ledger.rows import BATCH_COLUMNS, Batch, BatchState, ConversationState
from batchgen.ledger.run import Names
from batchgen.ledger.store import Store
from batchgen.reports.html import charts, timeline_bars
from batchgen.reports.html import page as paging
from batchgen.reports.html.conversations import (
    OPEN,
    READ_FIRST,
    Note,
    TextStatistics,
    conversation_record,
    read_texts,
)
from batchgen.reports.html.facts import RunFacts, collect_facts, receipt_table
from batchgen.reports.html.lengths import DIGITS, EXACT_UP_TO, QUANTILES, has_rounded_lengths, quantile, rounded_length
from batchgen.reports.html.sample import PER_CLASS, Sample
from batchgen.reports.html.summary import Summary, summarize
from batchgen.reports.html.timeline_bars import TimelineBuilder
from batchgen.reports.html.word_diff import diff_words
from batchgen.reports.html.write import report
from batchgen.runtime.files import Layout, exclusive_lock
from batchgen.runtime.settings import load_settings
from benchmarks.commands import measured
from tests.support.bench import REPOSITORY, Bench, seeds
from tests.support.invariants import ledger
from tests.support.report_page import (
    BLOCKED_ID,
    CHINESE,
    CHINESE_ID,
    COUNT,
    EMOJI,
    EQUAL_ID,
    HOSTILE_ID,
    SCRIPT,
    Page,
    read,
    troubled,
)

if TYPE_CHECKING:
    from tests.support.scene import Make

ROUNDED = "Lengths of 10,000 and more are rounded to three digits."
WORDS = st.text(st.sampled_from("ab, .\n\u2028é中文，한😀<&"), max_size=40)


pytestmark = pytest.mark.usefixtures("drawn_here")


@pytest.fixture(scope="module")
def troubled_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a finished run, made once; no test may write to it."""
    return troubled(tmp_path_factory.mktemp("troubled") / "run").root


@pytest.fixture(scope="module")
def html(troubled_root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report, written once for all tests that only read it."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    layout = Layout(troubled_root)
    store = Store.read(layout.store)
    assert store is not None
    with closing(Session(layout, load_settings(troubled_root), store, {})) as one:
        report(one, path, 2000)
    return path.read_text("utf-8")


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


@pytest.fixture
def finished(troubled_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    """A copy of it. A report needs no service, no key and no network."""
    shutil.copytree(troubled_root, tmp_path / "run")
    return Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # no request is sent


@pytest.mark.parametrize("apart_seconds", [0.0, 1e6], ids=["together", "apart"])
def test_a_timeline_of_any_number_of_batches(apart_seconds: float) -> None:
    """So many bars would not be visible, and a chart of them would fill the page's size limit."""
    count = 4_000
    begin = [1e9 + number * (10 + apart_seconds) for number in range(count)]
    nothing: dict[str, Any] = {**dict.fromkeys(BATCH_COLUMNS), "state": BatchState.COLLECTED}
    known = TimelineBuilder()
    for number, at in enumerate(begin):
        times = {"submitted_at": at, "started_at": at + 5, "ended_at": at + 8}
        row = {**nothing, "batch": number, "position": 3 + number % 6, **times}
        known.learn(Batch.from_row(list(row.values())), begin[-1])
    timeline = known.timeline()
    drawing = charts.timeline_chart(timeline)
    assert drawing is not None
    assert f"When {count} batches" in drawing.label
    assert len(timeline.bars) <= timeline_bars.MAX_BARS + 2 * 6
    for kind, first, last in zip(timeline_bars.PHASES, (0, 5), (5, 8), strict=True):  # from the first to the last
        bars = [bar for bar in timeline.bars if bar["kind"] == kind]
        assert min(bar["from"] for bar in bars) == round((begin[0] + first) * 1000)
        assert max(bar["to"] for bar in bars) == round((begin[-1] + last) * 1000)


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), max_size=30), st.integers(0, 20))
def test_merged_bars_cover_what_the_bars_cover(found: list[tuple[int, int]], gap: int) -> None:
    bars = sorted((start, start + long) for start, long in found)
    whole = list(timeline_bars.merge_close_bars(bars, gap))
    assert all(any(start <= bar[0] and bar[1] <= stop for start, stop in whole) for bar in bars)
    assert all(after[0] - before[1] > gap for before, after in pairwise(whole))
    assert {start for start, _ in whole} <= {start for start, _ in bars}
    assert {stop for _, stop in whole} <= {stop for _, stop in bars}


def test_a_report_stays_under_200_mb(finished: Bench) -> None:
    """The charts are drawn in another process, which takes as much memory as all the rest."""
    _, peak = measured(finished.root, "report")
    assert peak < 200


def written(bench: Bench, *options: str) -> tuple[Any, Page]:
    result = bench.run("report", "--json", *options)
    assert result.code == 0, result
    return result.json, read(Path(result.json["output"]))


def session(bench: Bench) -> Session:
    layout = Layout(bench.root)
    store = Store.read(layout.store)
    assert store is not None
    return Session(layout, load_settings(bench.root), store, {})


def known(bench: Bench) -> RunFacts:
    one = session(bench)
    with closing(one):
        return collect_facts(one)


# ---------------------------------------------------------------- numbers


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


def test_the_summary_says_what_is_good_what_it_cost_and_what_is_wrong(finished: Bench, page: Page) -> None:
    """Of 12 conversations one is rejected; the Chinese one and the one with an equal correction have flags."""
    with closing(session(finished)) as one:
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


def test_the_conversations_to_read_first_have_every_flag_once(page: Page) -> None:
    items = {item["i"]: item for item in page.unpacked()["items"]}
    links = [(found["href"] or "")[1:] for tag, found, _ in page.elements if tag == "a"]
    first = [name for name in links if name in items]
    assert len(first) == len(set(first)) == READ_FIRST
    assert set(first[:2]) == {EQUAL_ID, CHINESE_ID}
    assert all(items[name]["s"] == "complete" for name in first)
    assert "Ten conversations to read first" in page.texts("h2")
    assert [found["id"] for tag, found, _ in page.elements if tag == "article"][: len(first)] == first


def test_long_texts_of_the_conversations_to_read_first_are_cut_in_the_markup(finished: Bench) -> None:
    """A text of invisible characters only would make the page sixty times as long as the text."""
    with closing(session(finished)) as one:
        facts, texts = collect_facts(one), read_texts(one, 2000)
        bill = receipt_table(receipt(one.store, one.settings))
    record = json.loads(texts.shown[0])
    long = "\u200b" * 10_000
    record["t"][0] = [long, ["same", long, "end"], [long], []]
    texts = texts._replace(shown=[json.dumps(record).encode()], first=[0])
    drawings = charts.RenderedCharts(charts.RenderedChart("", "", "", {}), None, {}, None)
    page = Page(b"".join(paging.render_page(facts, texts, bill, drawings)).decode())
    assert len(page.signs) == 200 + 3 * paging.MAX_PLAIN_CHARACTERS - len("same")
    assert page.texts("p").count("Long texts are cut here. The exported files have the full texts.") == 1


@pytest.mark.parametrize(
    ("usd", "words"),
    [(None, "unknown"), (0.0, "$0.0000"), (2e-7, "< $0.0001"), (0.00012345, "$0.000123"), (0.25, "$0.2500")],
)
def test_what_one_conversation_costs(usd: float | None, words: str) -> None:
    assert paging.format_small_usd(usd) == words


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


def test_report_receipt_and_status_agree_to_the_cent(finished: Bench, page: Page) -> None:
    total = finished.run("receipt", "--json").json["total"]
    assert total["usd"] == pytest.approx(finished.status()["cost"]["spent_usd"], abs=1e-6)
    cells = page.texts("td")
    assert cells.count(paging.format_usd(total["usd"])) == 1
    assert paging.format_integer(total["input_tokens"]) in cells
    assert paging.format_usd(total["failed_usd"] + total["superseded_usd"]) in cells


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


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200), st.sampled_from(QUANTILES))
def test_quantiles_are_exact(lengths: list[int], part: float) -> None:
    counts = Counter(map(rounded_length, lengths))
    found = quantile(counts, part)
    assert sum(length <= found for length in lengths) >= part * len(lengths)
    assert all(sum(length <= less for length in lengths) < part * len(lengths) for less in counts if less < found)


@given(st.integers(1, 10**7))
def test_only_long_lengths_are_rounded_and_by_little(length: int) -> None:
    assert abs(rounded_length(length) - length) <= (0 if length <= EXACT_UP_TO else length * 0.005)
    assert rounded_length(rounded_length(length)) == rounded_length(length)
    assert (
        length <= EXACT_UP_TO or str(rounded_length(length))[DIGITS:].strip("0") == ""
    )  # at most 900 values per power of ten, for any number of texts


@given(st.one_of(st.integers(1, 10**7), st.integers(EXACT_UP_TO - 60, EXACT_UP_TO + 60)))
def test_whatever_length_is_rounded_is_said_to_be(length: int) -> None:
    said = has_rounded_lengths({(2, "answer"): {rounded_length(length): 1}})
    assert said == (length >= EXACT_UP_TO)
    assert said or rounded_length(length) == length


def test_small_shares_are_never_nothing_and_large_ones_never_all() -> None:
    assert [paging.format_share(value) for value in (None, 0.0, 0.0004, 0.0123, 0.9999, 1.0)] == [
        "\N{EN DASH}",
        "0 %",
        "< 0.1 %",
        "1.2 %",
        "> 99.9 %",
        "100 %",
    ]


# ---------------------------------------------------------------- texts are data


def test_every_conversation_can_be_read_as_the_store_holds_it(finished: Bench, page: Page) -> None:
    names = {one["i"]: one for one in page.unpacked()["items"]}
    with closing(session(finished)) as one:
        for conversation in one.store.dialogues.read(range(1, COUNT + 1)):
            item = names[one.names().id(conversation.number)]
            found = [Turn(turn[0], "".join(turn[1]), "".join(turn[2])) for turn in item["t"]]
            assert tuple(found) == conversation.turns
    assert names[BLOCKED_ID]["w"][:3] == [3, "answer", "empty"]
    assert names[BLOCKED_ID]["t"][2][1:3] == [[], []]
    assert SCRIPT in names[HOSTILE_ID]["t"][0][0]


def test_markup_of_a_seed_is_no_markup_of_the_page(html: str, page: Page) -> None:
    """Only the conversations to read first are in the markup, escaped."""
    assert "&lt;script&gt;" in html
    assert "<img" not in html
    assert [tag for tag in page.tags if tag in {"script", "img"}] == ["script", "script"]
    assert f"What does {SCRIPT} do? {EMOJI}" in page.texts("span")
    assert "U+200D" in page.signs


HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} ${1} @packed@ --> ]]> \u2028"


def test_words_of_providers_and_models_are_escaped(finished: Bench, page: Page) -> None:
    """A page with hostile words in every text from outside has the same elements."""
    store = Store.open(Layout(finished.root).store)
    with closing(store):
        database = store._connection
        database.execute("INSERT INTO holds (scope, until, hits, reason) VALUES ('gemini/x', NULL, 1, 'x')")
        database.execute("UPDATE batches SET error = 'x'")
        plain = written(finished)[1]
        database.execute("UPDATE holds SET scope = ?, reason = ?", (f"gemini/{HOSTILE}", HOSTILE))
        database.execute("UPDATE batches SET error = ?, model = ?", (HOSTILE, HOSTILE))
        database.execute("UPDATE run_facts SET value = ? WHERE key LIKE 'model:%'", (HOSTILE,))
        database.execute("UPDATE conversations SET detail = ? WHERE reason IS NOT NULL", (HOSTILE,))
        after = written(finished)[1]
    assert len(plain.tags) > len(page.tags)
    kinds = [tag for tag in after.tags if tag in {"script", "img"}]
    assert kinds == ["script", "script"]
    assert Counter(after.tags)["td"] == Counter(plain.tags)["td"]
    assert HOSTILE in after.texts("code")
    assert f"Waiting: {HOSTILE}: {HOSTILE}" in after.texts("p")
    assert {item["w"][3] for item in after.unpacked()["items"] if item["s"] == "rejected"} == {HOSTILE}


def test_the_page_may_do_nothing_but_run_its_own_script(page: Page) -> None:
    (policy,) = [found["content"] for _, found, _ in page.elements if found.get("http-equiv")]
    code = {b64encode(sha256(text.encode()).digest()).decode() for text in page.texts("style") + page.texts("script")}
    allowed = set(re.findall(r"'sha256-([^']+)'", policy or ""))
    assert len(allowed) == 2
    assert allowed < code
    assert (policy or "").startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in (policy or "")
    attributes = [(name, value or "") for _, found, _ in page.elements for name, value in found.items()]
    assert not [name for name, _ in attributes if name.startswith("on") or name in {"style", "src", "srcset"}]
    assert {value[0] for name, value in attributes if name == "href"} == {"#"}


def test_charts_are_drawings_in_both_widths_with_words_for_who_cannot_see_them(page: Page) -> None:
    figures = [found.get("aria-label") or "" for tag, found, _ in page.elements if found.get("role") == "img"]
    assert len(figures) == 6
    assert figures[0].startswith(f"Conversations per step. round 2 question: {COUNT} done, 0 rejected of {COUNT}")
    drawings = [found for tag, found, _ in page.elements if tag == "svg" and "viewbox" in found]
    assert len(drawings) == 2 * len(figures)
    assert all(found["aria-hidden"] == "true" for found in drawings)


@given(WORDS, WORDS)
def test_marked_texts_are_the_texts(answer: str, correction: str) -> None:
    found = diff_words(answer, correction)
    assert ("".join(found.answer), "".join(found.correction)) == (answer, correction)
    same = ["".join("".join(segments[::2]).split()) for segments in found]
    assert same[0] == same[1]
    assert not [segment for segments in found for segment in segments[1::2] if not segment.strip()]


def test_marks_name_the_words_that_changed() -> None:
    found = diff_words("Boil it for 15 minutes, then cool it.", "Boil it for 7 minutes, then cool it well.")
    assert found.answer[1::2] == ["15"]
    assert found.correction[1::2] == ["7", "well"]
    chinese = diff_words(CHINESE["answer"], CHINESE["correction"])
    assert chinese.answer[1::2] == ["十五"]
    assert chinese.correction[1::2] == ["七", "即可"]
    assert diff_words("same", "same") == (["same"], ["same"])


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=3))
def test_packed_texts_come_out_as_they_went_in(turns: list[tuple[str, str, str]]) -> None:
    conversation = Conversation(1, tuple(Turn(*turn) for turn in turns))
    note = Note(OPEN, (), ConversationState(1, 3, None, None, None, 0), {})
    record = json.dumps(conversation_record(conversation, note, Names("run", 6), 3)).encode()
    packed = paging.pack_conversations(TextStatistics({}, Counter(), Counter(), 0, 0, [record, record], []))
    assert not set(packed) & set(b"<>&\"' ")
    items = Page(f'<script id="packed">{packed.decode()}</script>').unpacked()["items"]
    assert len(items) == 2
    for item in items:
        assert [(t[0], "".join(t[1]), "".join(t[2])) for t in item["t"]] == turns
        assert item["w"] == [2, "question", "ready"]


# ---------------------------------------------------------------- which conversations


def drawn(most: int, offers: Iterable[tuple[int, set[str]]], each: int = PER_CLASS) -> list[int]:
    sample = Sample[None](most, each)
    for number, classes in offers:
        sample.offer(number, classes, None)
    return [number for number, _ in sample.chosen()]


@given(st.dictionaries(st.integers(1, 10_000), st.sets(st.sampled_from("abcd"))), st.integers(1, 30), st.randoms())
def test_a_sample_does_not_depend_on_the_order(offers: dict[int, set[str]], most: int, random: Any) -> None:
    mixed = list(offers.items())
    random.shuffle(mixed)
    found = drawn(most, mixed, each=2)
    assert found == drawn(most, offers.items(), each=2)
    assert len(found) == len(set(found)) == min(most, len(offers))
    if most >= 4:
        assert {name for number in found for name in offers[number]} == set().union(*offers.values())


def test_rare_classes_are_in_a_sample() -> None:
    offers = [(number, {"rare"} if number % 2500 == 0 else set()) for number in range(1, 10_001)]
    found = drawn(100, offers)
    assert {2500, 5000, 7500, 10_000} < set(found)
    assert len(found) == 100


@given(st.dictionaries(st.integers(1, 10_000), st.sets(st.sampled_from("abcdef")), min_size=1))
def test_the_first_of_a_sample_have_every_class_without_need_of_another(offers: dict[int, set[str]]) -> None:
    classes = set().union(*offers.values())
    found = drawn(10, offers.items(), each=1)
    covered: list[set[str]] = []
    while set().union(*covered) != classes:
        covered.append(offers[found[len(covered)]])
    assert all(one - set().union(*covered[:at]) for at, one in enumerate(covered))


def test_a_page_of_a_sample_says_so(finished: Bench, page: Page) -> None:
    value, sample = written(finished, "--conversations", "6")
    assert value["shown"] == 6
    identities = [item["i"] for item in sample.unpacked()["items"]]
    assert BLOCKED_ID in identities
    assert EQUAL_ID in identities
    assert identities == sorted(identities)
    assert any(text.startswith(f"This page shows 6 of {COUNT} conversations") for text in sample.texts("p"))
    assert not any(text.startswith("This page shows") for text in page.texts("p"))


def test_two_thousand_huge_conversations_stay_under_thirty_megabytes(bench: Bench) -> None:
    """Texts that cannot be compressed, each longer than the shown part of a text."""
    noise = [sha256(b"%d" % number).hexdigest() * 160 for number in range(3)]
    rows = [
        {"question": f"{number}? {noise[0]}", "answer": f"{number} {noise[1]}", "correction": f"{number} {noise[2]}"}
        for number in range(2100)
    ]
    assert bench.prepare(rows).code == 0
    value, page = written(bench)
    assert value["bytes"] < 30_000_000
    assert 0 < value["shown"] < 2000
    assert ROUNDED in "".join(page.texts("p"))
    (first, *_) = page.unpacked()["items"]
    assert [len("".join(text)) for text in first["t"][0][:3]] == [10_000] * 3
    assert first["t"][0][4] == 1


# ---------------------------------------------------------------- any time, beside anybody


def test_a_page_can_be_written_before_anything_is_sent(bench: Bench) -> None:
    assert bench.prepare(seeds(3)).code == 0
    _, page = written(bench)
    assert page.texts("h1") == ["Running: 0 of 3 conversations (0 %) are good"]
    assert not [text for text in page.texts("h2") if text.endswith("read first")]
    assert "No batch was submitted yet." in page.texts("p")
    assert "No conversation is complete yet." in page.texts("p")
    assert {item["s"] for item in page.unpacked()["items"]} == {"open"}
    assert ROUNDED not in "".join(page.texts("p"))


def test_a_page_in_the_middle_says_what_is_in_flight(make_bench: Make) -> None:
    bench = make_bench(job_seconds=1000.0)
    bench.prepare(seeds(3))
    assert bench.run("submit", "--stage", "question").code == 0
    assert [step.in_flight for step in known(bench).steps] == [3, 0, 0, 0, 0, 0]
    _, page = written(bench)
    assert {tuple(item["w"]) for item in page.unpacked()["items"]} == {(2, "question", "in flight")}
    assert page.texts("dt") == ["Cost", "Flagged", "Rejected", "In progress"]
    assert page.texts("strong")[1:] == ["$0.0000", "0", "0", "3"]


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
    with closing(session(finished)) as one, pytest.raises(SetupError):
        report(one, finished.root / "page.html", 10)


def test_a_wheel_holds_every_package_and_asset() -> None:
    tools = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    packages = {path.parent for path in (REPOSITORY / "batchgen").rglob("__init__.py")}
    assert {str(path.relative_to(REPOSITORY)).replace("/", ".") for path in packages} == set(tools["packages"])
    report_files = {
        path for glob in tools["package-data"]["batchgen.reports.html"] for path in paging.ASSETS.parent.glob(glob)
    }
    assert {paging.ASSETS / name for name in ("page.html.j2", "page.css", "page.js")} <= report_files
