"""Open the report in a real browser: test its controls, and that it sends no request."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from batchgen.reports.html.conversations import READ_FIRST
from tests.support.bench import Bench, seeds
from tests.support.report_page import (
    BLOCKED_ID,
    CHINESE,
    CHINESE_ID,
    COUNT,
    EMOJI,
    EQUAL_ID,
    HOSTILE_ID,
    INVISIBLE,
    SCRIPT,
)

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Request

MANY = 1_200  # conversations: a hundred screens of rows
SEEN = "a\tb\u00a0\u3000 é中❤\ufe0f"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (apt-get install chromium)"),
]


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a finished run, as a file."""
    path = tmp_path_factory.mktemp("address") / "page.html"
    path.write_text(html, "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


class Reader:
    """A page, its console messages, and its network requests."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("request", self._see)

    def _hear(self, message: ConsoleMessage) -> None:
        self.said.append(message.text)

    def _see(self, request: Request) -> None:
        self.asked.append(request.url)

    def open(self, address: str) -> None:
        self.page.goto(address)
        expect(self.page.locator("#found")).to_contain_text(" of ")

    @property
    def rows(self) -> Locator:
        return self.page.locator("#rows .row")

    @property
    def chosen(self) -> Locator:
        return self.page.locator("#detail h3")

    def ids(self) -> list[str]:
        return self.page.locator("#rows .row .id").all_text_contents()

    def search(self, text: str) -> None:
        self.page.get_by_label("Search").fill(text)

    def quiet(self) -> None:
        """Check that no foreign script ran, no error was logged, and only the file itself was loaded."""
        assert self.said == []
        assert [url for url in self.asked if not url.startswith(("file:", "blob:"))] == []
        assert len({url for url in self.asked if url.startswith("file:")}) == 1
        assert self.page.evaluate("window.pwned") is None


@pytest.fixture
def reader(browser: Browser, address: str) -> Iterator[Reader]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    found = Reader(context.new_page())
    found.open(address)
    yield found
    found.quiet()
    context.close()


def test_the_first_conversation_is_open(reader: Reader) -> None:
    expect(reader.chosen).to_have_text("r1-000001")
    expect(reader.rows).to_have_count(COUNT)
    expect(reader.page.locator("#found")).to_have_text(f"{COUNT} of {COUNT}")


def test_search_finds_texts_and_ids_of_any_script(reader: Reader) -> None:
    for text, found in (
        ("蛋黄才是软的", CHINESE_ID),
        (EMOJI, HOSTILE_ID),
        ("R1-000007", EQUAL_ID),
        ("ONERROR=", HOSTILE_ID),
    ):
        reader.search(text)
        expect(reader.page.locator("#found")).to_have_text(f"1 of {COUNT}")
        expect(reader.chosen).to_have_text(found)
    assert reader.page.evaluate("CSS.highlights.get('found').size") > 0
    reader.search("nobody wrote this")
    expect(reader.page.get_by_text("Nothing matches.")).to_be_visible()
    expect(reader.rows).to_have_count(0)
    reader.page.get_by_role("button", name="Reset").click()
    expect(reader.rows).to_have_count(COUNT)


def test_filters_by_flag_outcome_and_rounds(reader: Reader) -> None:
    reader.page.locator("#flag").select_option("correction_equals_answer")
    expect(reader.rows.filter(has_text=EQUAL_ID)).to_have_count(1)
    expect(reader.page.locator("#found")).not_to_have_text(f"{COUNT} of {COUNT}")
    expect(reader.page.locator("#detail .flags li").first).to_have_text("correction equals answer")
    reader.page.get_by_role("button", name="Reset").click()
    reader.page.locator("#outcome").select_option("=empty")
    expect(reader.rows).to_have_count(1)
    expect(reader.chosen).to_have_text(BLOCKED_ID)
    expect(reader.page.locator("#detail .standing")).to_contain_text(
        "Rejected at round 3 answer: empty after 3 attempts"
    )
    expect(reader.page.locator("#detail .absent")).to_have_count(2)
    reader.page.locator("#outcome").select_option("complete")
    expect(reader.page.locator("#found")).to_have_text(f"{COUNT - 1} of {COUNT}")
    reader.page.locator("#rounds").select_option("2")
    expect(reader.page.locator("#found")).to_have_text(f"0 of {COUNT}")
    reader.page.locator("#outcome").select_option("")
    expect(reader.chosen).to_have_text(BLOCKED_ID)


def test_tables_lead_to_their_conversations(reader: Reader) -> None:
    reader.page.locator("#steps button[data-reason=empty]").click()
    expect(reader.chosen).to_have_text(BLOCKED_ID)
    expect(reader.chosen).to_be_in_viewport()
    reader.page.locator("#quality button[data-flag=correction_equals_answer]").click()
    expect(reader.rows.filter(has_text=EQUAL_ID)).to_have_count(1)


def test_the_summary_leads_to_its_conversations(reader: Reader) -> None:
    reader.page.locator("#summary button[data-flag=correction_equals_answer]").click()
    expect(reader.rows).to_have_count(1)
    expect(reader.chosen).to_have_text(EQUAL_ID)
    reader.page.locator("#summary button[data-reason=empty]").click()
    expect(reader.chosen).to_have_text(BLOCKED_ID)
    expect(reader.chosen).to_be_in_viewport()


def test_the_conversations_to_read_first_are_links_to_their_place(reader: Reader) -> None:
    links = reader.page.locator("#first a")
    expect(links).to_have_count(READ_FIRST)
    reader.search("nobody wrote this")  # a link also finds what a search has hidden
    for found in (EQUAL_ID, EQUAL_ID, CHINESE_ID):
        reader.page.evaluate("scrollTo(0, 0)")
        links.filter(has_text=found).click()
        expect(reader.chosen).to_have_text(found)
        expect(reader.chosen).to_be_in_viewport()
    assert reader.page.url.endswith(f"#{CHINESE_ID}")
    expect(reader.rows).to_have_count(COUNT)
    reader.page.go_back()
    expect(reader.chosen).to_have_text(EQUAL_ID)


def test_verdicts_filter_and_unfold(
    browser: Browser, audited_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(audited_root, None, capsys)  # type: ignore[arg-type] # no request is sent
    assert bench.run("report", "--output", str(tmp_path / "page.html")).code == 0
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    reader = Reader(page)
    reader.open((tmp_path / "page.html").as_uri())
    expect(page.locator("#detail details.judged")).to_have_count(2)
    expect(page.locator("#detail details.judged[open]")).to_have_count(0)
    for won, found in (("answer", 2), ("tie", 1), ("inconsistent", 3), ("correction", 9)):
        page.locator("#verdict").select_option(won)
        expect(reader.rows).to_have_count(found)
    page.locator("#summary button[data-verdict=answer]").click()
    expect(reader.rows).to_have_count(2)
    reader.rows.first.click()
    expect(reader.chosen).to_have_text("r1-000001")
    verdict = page.locator("#detail details.judged").first
    expect(verdict.locator("summary")).to_have_text("Judge: the answer is better")
    expect(verdict.locator("dd").first).to_contain_text(f"Plant 1, {SCRIPT}")
    expect(verdict.locator("dd").first).to_be_visible()
    expect(verdict.locator("dt").first).to_have_text("With the answer shown first, it prefers the first, the answer:")
    reader.quiet()
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


def test_without_a_script_the_first_conversations_can_be_read(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 800})
    page = context.new_page()
    page.goto(address)
    page.locator("#first a", has_text=HOSTILE_ID).click()
    conversation = page.locator("article", has_text=HOSTILE_ID)
    expect(conversation).to_be_in_viewport()
    expect(conversation.locator(".text.question").first).to_have_text(f"What does {SCRIPT} do? {EMOJI}")
    expect(conversation.locator(".sign").first).to_be_visible()
    expect(page.locator("#list")).to_be_hidden()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    context.close()


def test_invisible_characters_have_signs_and_are_copied(browser: Browser, address: str) -> None:
    """The script of the page has the same rule as `visible`."""
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script(
        "const parse = Response.prototype.json; Response.prototype.json = async function () { const found = await"
        f" parse.call(this); found.items[0].t[0][0] = {json.dumps(INVISIBLE + SEEN)}; return found; }};"
    )
    page.goto(address)
    question = page.locator("#detail .text.question").first
    expect(question).to_be_visible()
    signs = question.locator(".sign")
    titles = [f"U+{ord(character):04X}" for character in INVISIBLE]
    assert [sign.get_attribute("title") for sign in signs.all()] == titles
    assert question.text_content() == INVISIBLE + SEEN
    assert all((sign.bounding_box() or {"width": 0})["width"] > 20 for sign in signs.all())
    copied = question.evaluate("node => { getSelection().selectAllChildren(node); return getSelection().toString(); }")
    assert {"\u202e", "\u2067", "\u200b", "\ufeff", "\xad", "\U000e0041"} < set(copied)
    context.close()


def test_a_conversation_full_of_markup_is_shown_and_not_run(reader: Reader) -> None:
    reader.rows.filter(has_text=HOSTILE_ID).click()
    first = reader.page.locator("#detail .round").first
    expect(first.locator(".text.question")).to_have_text(f"What does {SCRIPT} do? {EMOJI}")
    expect(first.locator(".text.correction")).to_have_text(SCRIPT)
    assert reader.page.locator("#detail script, #detail img, #rows img").count() == 0


def test_chinese_is_told_from_japanese_and_its_changes_are_marked(reader: Reader) -> None:
    reader.rows.filter(has_text=CHINESE_ID).click()
    first = reader.page.locator("#detail .round").first
    expect(first.locator(".text.answer")).to_have_attribute("lang", "zh-Hans")
    expect(first.locator(".text.answer")).to_have_text(CHINESE["answer"])
    expect(first.locator("del")).to_have_text(["十五"])
    expect(first.locator("ins")).to_have_text(["七", "即可"])


def test_the_keyboard_is_enough(reader: Reader) -> None:
    keyboard = reader.page.keyboard
    for key, found in (("j", "r1-000002"), ("j", "r1-000003"), ("k", "r1-000002")):
        keyboard.press(key)
        expect(reader.chosen).to_have_text(found)
    keyboard.press("/")
    expect(reader.page.get_by_label("Search")).to_be_focused()
    keyboard.type("jk plant number 9")
    expect(reader.rows).to_have_count(0)
    keyboard.press("Escape")
    expect(reader.rows).to_have_count(COUNT)
    listing = reader.page.get_by_role("listbox", name="Conversations")
    expect(listing).to_be_focused()
    keyboard.press("End")
    expect(reader.chosen).to_have_text(f"r1-{COUNT:06}")
    keyboard.press("ArrowUp")
    expect(reader.chosen).to_have_text(f"r1-{COUNT - 1:06}")
    active = listing.get_attribute("aria-activedescendant") or ""
    expect(reader.page.locator(f"#{active}")).to_have_attribute("aria-selected", "true")
    expect(reader.page.locator("[aria-selected=true]")).to_have_count(1)


def test_a_link_leads_to_its_conversation(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}#{CHINESE_ID}")
    expect(page.locator("#detail h3")).to_have_text(CHINESE_ID)
    page.close()


def test_the_theme_follows_the_system_until_it_is_chosen(reader: Reader) -> None:
    def back() -> str:
        return str(reader.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = back()
    reader.page.emulate_media(color_scheme="dark")
    dark = back()
    assert dark != light
    button = reader.page.locator("#theme")
    button.click()
    expect(button).to_have_text("Theme: light")
    assert back() == light
    button.click()
    assert back() == dark
    reader.page.reload()
    expect(button).to_have_text("Theme: dark")


@pytest.mark.parametrize("width", [360, 820, 1280])
def test_nothing_sticks_out(reader: Reader, width: int) -> None:
    reader.page.set_viewport_size({"width": width, "height": 800})
    assert reader.page.evaluate("document.documentElement.scrollWidth") == width
    drawings = [chart.is_visible() for chart in reader.page.locator(".chart .wide").all()]
    assert drawings == [width > 820] * len(drawings)


def test_the_page_does_not_move_while_it_loads(browser: Browser, address: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.add_init_script(
        "window.moved = 0; new PerformanceObserver((list) => { for (const one of list.getEntries())"
        " window.moved += one.value; }).observe({ type: 'layout-shift', buffered: true });"
    )
    page.goto(f"{address}#conversations")
    expect(page.locator("#detail h3")).to_have_text("r1-000001")
    page.keyboard.press("j")
    expect(page.locator("#detail h3")).to_have_text("r1-000002")
    assert page.evaluate("window.moved") < 0.01
    page.close()


def test_many_conversations_are_few_rows_at_a_time(
    browser: Browser, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "run", None, capsys)  # type: ignore[arg-type] # no request is sent
    assert bench.prepare(seeds(MANY)).code == 0
    assert bench.run("report", "--conversations", str(MANY)).code == 0
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto((bench.root / "data" / "report.html").as_uri())
    expect(page.locator("#found")).to_have_text(f"{MANY:,} of {MANY:,}")
    page.locator("#list").focus()
    page.keyboard.press("End")
    expect(page.locator("#detail h3")).to_have_text(f"r1-{MANY:06}")
    assert 0 < page.locator("#rows .row").count() < 40
    page.get_by_label("Search").fill(f"plant number {MANY - 1} ")
    expect(page.locator("#found")).to_have_text(f"1 of {MANY:,}")
    expect(page.locator("#detail h3")).to_have_text(f"r1-{MANY - 1:06}")
    page.close()


def test_what_is_printed_is_what_can_be_read(reader: Reader, tmp_path: Path) -> None:
    reader.page.emulate_media(media="print", color_scheme="dark")
    for hidden in ("#theme", "#search", "#list"):
        expect(reader.page.locator(hidden)).to_be_hidden()
    for shown in ("h1", "#steps table", "#detail h3"):
        expect(reader.page.locator(shown)).to_be_visible()
    assert reader.page.evaluate("getComputedStyle(document.body).color") == "rgb(29, 32, 35)"
    assert reader.page.pdf().startswith(b"%PDF")


def test_controls_have_names_and_text_has_contrast(reader: Reader) -> None:
    """Every control has a name, and text has enough contrast in both themes (WCAG AA, 4.5 to 1)."""
    for role in ("button", "textbox", "combobox", "listbox", "searchbox"):
        for control in reader.page.get_by_role(role).all():
            assert control.evaluate(
                "node => (node.ariaLabel || node.labels?.[0]?.textContent || node.textContent).trim()"
            )
    for scheme in ("light", "dark"):
        reader.page.emulate_media(color_scheme=scheme)
        for ink, ground in (("text", "back"), ("text", "card"), ("soft", "back"), ("soft", "card"), ("soft", "sunk")):
            assert contrast(reader.page, ink, ground) >= 4.5, (scheme, ink, ground)
        for ground in ("good-back", "bad-back", "warn-back", "found"):
            assert contrast(reader.page, "text", ground) >= 4.5, (scheme, ground)


def contrast(page: Page, *names: str) -> float:
    """The contrast of two colours of the style sheet."""
    probe = """name => { const node = document.body.appendChild(document.createElement('i'));
        node.style.color = `var(--${name})`; const found = getComputedStyle(node).color; node.remove();
        return found.match(/\\d+/g).map(Number); }"""
    one, other = sorted((luminance(page.evaluate(probe, name)) for name in names), reverse=True)
    return (one + 0.05) / (other + 0.05)


def luminance(colour: list[int]) -> float:
    parts = [value / 255 for value in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
