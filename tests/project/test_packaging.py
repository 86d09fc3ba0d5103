"""Compare pyproject.toml with the package on disk. `make check-dist` tries the wheel and the sdist that it leads to."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from batchgen import __version__
from batchgen.emulator.backends.builtin import DEMO_INSTALL
from tests.support.bench import REPOSITORY

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
TOOL = PYPROJECT["tool"]["setuptools"]


def folder(package: str) -> Path:
    return REPOSITORY / package.replace(".", "/")


def test_the_wheel_holds_every_file_of_the_package_and_no_other() -> None:
    """A new subpackage or data file must be named in pyproject.toml."""
    named = {path for package in TOOL["packages"] for path in folder(package).glob("*.py")}
    for package, globs in TOOL["package-data"].items():
        for glob in globs:
            found = set(folder(package).glob(glob))
            assert found, f"{package}: {glob} names no file"
            named |= found
    files = {path for path in folder("batchgen").rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
    assert sorted(map(str, named)) == sorted(map(str, files))


def test_the_description_on_an_index_page_links_to_nothing_that_is_not_there() -> None:
    page = (REPOSITORY / PYPROJECT["project"]["readme"]).read_text("utf-8")
    assert [link for link in re.findall(r"\]\(([^)]+)\)", page) if not link.startswith("https://")] == []


def test_the_documents_say_how_an_installed_demo_gets_its_model() -> None:
    assert DEMO_INSTALL in (REPOSITORY / "docs" / "deployment.md").read_text("utf-8")


def test_the_changelog_begins_with_this_version() -> None:
    newest = re.search(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert newest
    assert re.fullmatch(re.escape(__version__) + r" \(\d{4}-\d{2}-\d{2}\)", newest[1])
