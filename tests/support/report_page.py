"""`Page`: parse an HTML report. `troubled`: make a run with markup, emoji, Chinese and rejected rows.

Also: write the report of a run (`written`), and read what it is written from (`known`, `open_session`).
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from batchgen.emulator.server import LocalService
from batchgen.engine.session import Session
from batchgen.ledger.store import Store
from batchgen.reports.html.facts import RunFacts, collect_facts
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import load_settings
from tests.support.bench import Bench, seeds
from tests.support.grown_run import grow

COUNT = 12
SCRIPT = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"
EMOJI = "\U0001f469\u200d\U0001f52c\U0001f600"
INVISIBLE = (  # line and paragraph separators, controls, bidi controls and other format characters, fillers
    "\0\x07\r\x1b\x7f\x85\xad\u034f\u061c\u115f\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2064\u2066\u2067\u2068\u2069\u206f\u3164\ufe00\ufeff\ufff9\uffa0\U0001d173\U000e0001\U000e0041\U000e0100\U000e01ef"
)
ROUNDED = "Lengths of 10,000 and more are rounded to three digits."
WORDS = st.text(st.sampled_from("ab, .\n\u2028é中文，한😀<&"), max_size=40)
CHINESE = {
    "question": "鸡蛋要煮多久蛋黄才是软的？",
    "answer": "把水烧开，煮十五分钟。",
    "correction": "把水烧开，煮七分钟即可。",
}
HOSTILE_ID, CHINESE_ID, BLOCKED_ID, EQUAL_ID = "r1-000003", "r1-000004", "r1-000005", "r1-000007"


class Page(HTMLParser):
    """A parsed report: its elements with their attributes, and the text after each start tag.

    A sign for an invisible character is no element of its own: its character is part of the text around it, and its
    title is in `signs`.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.signs: list[str] = []
        self._within, self._in_sign = False, False
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("class") == "sign":
            self.signs.append(found["title"] or "")
            self._in_sign = True
            return
        self.elements.append((tag, found, []))
        self._within = True

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the parser's own name
        self._within, self._in_sign = self._in_sign, False

    def handle_data(self, data: str) -> None:
        if self._within:
            self.elements[-1][2].append(data)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.elements if name == tag]

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _, _ in self.elements]

    def unpacked(self) -> Any:
        """The data that the script of the page unpacks."""
        (coded,) = ["".join(text) for _, found, text in self.elements if found.get("id") == "packed"]
        return json.loads(zlib.decompress(b64decode(coded)))


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def troubled_seeds() -> list[dict[str, str]]:
    """Triples with markup, emoji, Chinese, and a correction that equals the answer."""
    rows = seeds(COUNT)
    rows[2] = {"question": f"What does {SCRIPT} do? {EMOJI}", "answer": f"Nothing. {SCRIPT}", "correction": SCRIPT}
    rows[3] = CHINESE
    rows[6]["correction"] = rows[6]["answer"]
    return rows


def arm(service: LocalService) -> None:
    """Make the answer of conversation 5 in round 3 empty at every attempt, and truncate the answer of 6 once."""
    service.faults.rows("text", key=r"r1-000005\.r3\.answer", text="")
    service.faults.rows("truncated", key=r"r1-000006\.r2\.answer\.a1\.")


def troubled(root: Path) -> Bench:
    """Make a finished run of COUNT conversations of `troubled_seeds`, with the faults of `arm`."""

    def prepare(bench: Bench) -> None:
        arm(bench.service)
        assert bench.prepare(troubled_seeds()).code == 0

    return grow(root, prepare)


def written(bench: Bench, *options: str) -> tuple[Any, Page]:
    result = bench.run("report", "--json", *options)
    assert result.code == 0, result
    return result.json, read(Path(result.json["output"]))


def open_session(root: Path) -> Session:
    layout = Layout(root)
    store = Store.read(layout.store)
    assert store is not None
    return Session(layout, load_settings(root), store, {})


def known(bench: Bench) -> RunFacts:
    with closing(open_session(bench.root)) as one:
        return collect_facts(one)
