"""Make the table of docs/reliability.md from the `fault` marks of the collected tests. A mark is written like this:

@pytest.mark.fault(3, "create: the answer is lost", injected="connection dropped after the job was made",
                   seen="status 75; the next tick adopts the job")
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.provider_facts import PROVIDERS, providers_in

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
COLLECTED = pytest.StashKey[list[pytest.Item]]()  # all tests, also those that -m leaves out
START, END = "<!-- table: make docs -->\n", "<!-- end of table -->\n"


def rows(items: Iterable[pytest.Item]) -> list[str]:
    """One table row for each mark, in the order of the faults; parametrised tests count once.

    The column "providers" names those that the parameters of the test name.
    """
    found: dict[tuple[int, str, str], tuple[list[str], set[str]]] = {}
    for item in items:
        callspec = getattr(item, "callspec", None)
        providers = providers_in(callspec.params.values()) if callspec else set()
        name = item.nodeid.removeprefix("tests/").partition("[")[0]
        for mark in item.iter_markers("fault"):
            number, fault = mark.args
            cells = [str(number), fault, mark.kwargs["injected"], mark.kwargs["seen"], f"`{name}`"]
            found.setdefault((number, name, fault), (cells, set()))[1].update(providers)
    return [_row(*found[key]) for key in sorted(found)]


def faults_shown(item: pytest.Item) -> set[str]:
    """Return the names of the faults that a case shows: its rows of the table."""
    return {mark.args[1] for mark in item.iter_markers("fault")}


def _row(cells: list[str], providers: set[str]) -> str:
    named = ", ".join(name for name in PROVIDERS if name in providers)
    return f"| {' | '.join([*cells[:-1], named, cells[-1]])} |\n"


def write(items: Iterable[pytest.Item]) -> None:
    """Put the table into the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(START)
    _, _, after = rest.partition(END)
    head = "| # | fault | how it is injected | what the user sees | providers | test |\n" + "| --- " * 6 + "|\n"
    PAGE.write_text(f"{before}{START}{head}{''.join(rows(items))}{END}{after}", "utf-8")
