"""Compare documents with the code that they describe."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING

import click
import msgspec

from batchgen import emulator
from batchgen.cli.main import cli
from batchgen.runtime.settings import Settings
from tests.support import fault_table
from tests.support.bench import REPOSITORY

if TYPE_CHECKING:
    import pytest

README = (REPOSITORY / "README.md").read_text("utf-8")


def test_reliability_page_lists_every_fault_test(request: pytest.FixtureRequest) -> None:
    page = fault_table.PAGE.read_text("utf-8")
    items = request.config.stash[fault_table.COLLECTED]
    missing = [row for row in fault_table.rows(items) if row not in page]
    assert not missing, "run: make docs"


def test_the_configuration_page_shows_the_defaults() -> None:
    """The TOML of the page changes no default but the example price."""
    page = (REPOSITORY / "docs" / "configuration.md").read_text("utf-8")
    (block,) = re.findall(r"## `batchgen.toml`.*?```toml\n(.*?)```", page, re.DOTALL)
    shown = tomllib.loads(block)
    shown.pop("prices")
    defaults = msgspec.json.decode(msgspec.json.encode(Settings()))
    for key, value in shown.items():
        if isinstance(value, dict):
            assert {name: defaults[key][name] for name in value} == value, key
        else:
            assert defaults[key] == value, key


def test_every_command_has_help_and_stands_in_the_readme() -> None:
    context = click.Context(cli)
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        assert command.help, name
        assert re.search(rf"\b(cli\.py|batchgen|make) {name}\b|`{name}`", README), name


def test_links_of_the_documents_lead_somewhere() -> None:
    for page in [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_map_shows_every_module_and_no_other() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    (table,) = re.findall(r"## Where is what\n(.*?)\n## ", page, re.DOTALL)
    rows = [row.split("|")[2] for row in table.strip().splitlines()[2:]]
    shown = [name for row in rows for name in re.findall(r"`([\w/]+)`", row) if not name.endswith("/")]
    package = REPOSITORY / "batchgen"
    modules = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py") if path.stem != "__init__"]
    assert sorted(shown) == sorted(str(module) for module in modules if module.parts[0] != "emulator")
    listed = set(re.findall(r"\w+", emulator.__doc__ or ""))
    assert {module.name for module in modules if module.parts[0] == "emulator"} <= listed


def test_the_program_prints_what_the_readme_quotes() -> None:
    """Each piece of a quoted message, between `...`, stands in a string of the package."""
    (table,) = re.findall(r"## What can go wrong\n(.*?)\n\n- ", README, re.DOTALL)
    quoted = [text for row in table.strip().splitlines()[2:] for text in re.findall(r"`([^`]+)`", row.split("|")[1])]
    pieces = [
        piece.strip(" .:") for text in quoted for piece in re.split(r"\.\.\.|_API_KEY|verdicts|\d+ s$|\d+ h$", text)
    ]
    printed = "\n".join(
        "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for path in (REPOSITORY / "batchgen").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.JoinedStr | ast.Constant)
    )
    assert len(quoted) > 20, "the table was found"
    assert not [piece for piece in pieces if piece not in printed]
