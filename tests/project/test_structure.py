"""The grain of the code: short functions, small modules, and a help text for every command."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from statistics import median

import click
import pytest

from batchgen.cli.main import cli
from batchgen.core.wording import COMMANDS
from tests.support.bench import REPOSITORY

MODULES = sorted((REPOSITORY / "batchgen").rglob("*.py"))
MOST_LINES_OF_A_FUNCTION = 50
MOST_LINES_OF_A_MODULE = 400
MEDIAN_LINES_OF_A_FUNCTION = 10

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions() -> Iterator[tuple[str, Function]]:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, Function):
                yield f"{path.relative_to(REPOSITORY)}:{node.lineno} {node.name}", node


def length(node: Function) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_are_short() -> None:
    lengths = {name: length(node) for name, node in functions()}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_FUNCTION} == {}
    assert median(lengths.values()) <= MEDIAN_LINES_OF_A_FUNCTION


def test_modules_are_small() -> None:
    lengths = {str(path.relative_to(REPOSITORY)): path.read_bytes().count(b"\n") for path in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > MOST_LINES_OF_A_MODULE} == {}


def test_modules_say_what_they_are() -> None:
    silent = [
        str(path.relative_to(REPOSITORY))
        for path in MODULES
        if path.read_text("utf-8").strip() and ast.get_docstring(ast.parse(path.read_text("utf-8"))) is None
    ]
    assert silent in ([], ["batchgen/__main__.py"])


def command_called(name: str) -> click.Command:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    return command


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    command = command_called(name)
    assert command.help
    assert command.help.split("\n")[0].rstrip().endswith((".", "?")) or "\n" in command.help
    undocumented = [
        option.opts[0]
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not option.show_default
    ]
    assert undocumented == []


def test_the_list_of_commands_fits_a_terminal_and_goes_as_a_run_goes() -> None:
    context = click.Context(cli, terminal_width=80)
    lines = cli.get_help(context).partition("Commands:\n")[2].rstrip().split("\n")
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert not [line for line in lines if line.endswith("...")]
    assert list(COMMANDS)[:4] == ["prepare", "estimate", "submit", "collect"]


def test_commands_with_choices_show_an_example() -> None:
    """A command that cannot run without an option or argument shows how; the others are their own example."""
    for name in COMMANDS:
        command = command_called(name)
        if any(parameter.required for parameter in command.params):
            assert f"batchgen {name}" in (command.help or ""), name
