"""Test that the HTML report shows all texts as they are: escaped, whole or cut aloud, and run by nothing."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections import Counter
from contextlib import closing
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.dialogue import Conversation, Turn
from batchgen.ledger.receipt import receipt
from batchgen.ledger.rows import ConversationState
from batchgen.ledger.run import Names
from batchgen.ledger.store import Store
from batchgen.reports.html import charts
from batchgen.reports.html import page as paging
from batchgen.reports.html.conversations import (
    OPEN,
    Note,
    TextStatistics,
    conversation_record,
    read_texts,
)
from batchgen.reports.html.facts import collect_facts, receipt_table
from batchgen.runtime.files import Layout
from tests.support.bench import Bench
from tests.support.report_page import (
    BLOCKED_ID,
    COUNT,
    EMOJI,
    HOSTILE_ID,
    ROUNDED,
    SCRIPT,
    WORDS,
    Page,
    open_session,
    written,
)

pytestmark = pytest.mark.usefixtures("drawn_here")


@pytest.mark.slow
def test_long_texts_of_the_conversations_to_read_first_are_cut_in_the_markup(finished: Bench) -> None:
    """A text of invisible characters only would make the page sixty times as long as the text."""
    with closing(open_session(finished.root)) as one:
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


def test_every_conversation_can_be_read_as_the_store_holds_it(finished: Bench, page: Page) -> None:
    names = {one["i"]: one for one in page.unpacked()["items"]}
    with closing(open_session(finished.root)) as one:
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


@pytest.mark.slow
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


@pytest.mark.slow
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
