"""Check the structure of the code: short functions, small modules, a help text for every command."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
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
MOST_MODULES_OF_A_FOLDER = 12
# Modules without a test file of the same name -> the test files that test them.
TESTED_BY: Mapping[str, tuple[str, ...]] = {
    "cli/commands/base.py": ("unit/cli/test_usage.py", "faults/test_environment.py"),
    "cli/commands/dataset.py": ("unit/dataset/test_export.py", "unit/dataset/test_verify.py"),
    "cli/commands/run.py": ("end_to_end/test_main_job.py", "end_to_end/test_money.py"),
    "cli/commands/service.py": ("end_to_end/test_demo.py", "emulator/test_control.py"),
    "cli/doctor.py": ("faults/test_setup.py", "faults/test_environment.py"),
    "cli/prompted.py": ("unit/reports/test_stage_prompts.py",),
    "cli/main.py": ("unit/cli/test_usage.py", "project/test_structure.py"),
    "core/dialogue.py": ("unit/core/test_prompts.py", "unit/core/test_outcomes.py"),
    "core/errors.py": ("unit/runtime/test_streams.py", "faults/test_filesystems.py"),
    "core/json_template.py": ("unit/engine/test_line_templates.py",),
    "core/jsonl.py": ("unit/providers/test_codecs.py", "unit/providers/test_request_lines.py"),
    "core/text_features.py": ("unit/core/test_pricing.py", "unit/engine/test_line_templates.py"),
    "core/tokens.py": ("unit/core/test_pricing.py",),
    "dataset/audit/card_section.py": ("unit/dataset/test_audit_card.py",),
    "dataset/audit/figures.py": ("end_to_end/test_audit.py", "unit/reports/test_html_audit.py"),
    "dataset/audit/table.py": ("unit/dataset/test_audit_card.py", "unit/reports/test_html_audit.py"),
    "dataset/audit/verdicts.py": ("end_to_end/test_audit.py",),
    "dataset/card.py": ("unit/dataset/test_export.py",),
    "dataset/formats.py": ("unit/dataset/test_export.py",),
    "dataset/manifest.py": ("unit/engine/test_rebuild.py",),
    "dataset/prepare.py": ("unit/dataset/test_shapes.py", "end_to_end/test_main_job.py"),
    "dataset/quality/patterns.py": ("unit/dataset/test_flags.py",),
    "dataset/quality/similarity.py": ("unit/dataset/test_flags.py",),
    "dataset/quality/survey.py": ("unit/dataset/test_flags.py", "unit/dataset/test_near_duplicates.py"),
    "dataset/rows/row_files.py": ("unit/dataset/test_seeds.py", "unit/dataset/test_seed_rows.py"),
    "dataset/round_lines.py": ("unit/dataset/test_round_files.py",),
    "emulator/backends/builtin.py": ("emulator/test_backends.py",),
    "emulator/backends/counts.py": ("emulator/test_metrics.py",),
    "emulator/backends/openai_chat.py": ("emulator/test_upstream.py", "emulator/test_backends.py"),
    "emulator/backends/workers.py": ("emulator/test_upstream.py", "emulator/test_engine.py"),
    "emulator/control_api.py": ("emulator/test_control.py",),
    "emulator/errors.py": ("emulator/test_gemini.py", "emulator/test_together.py"),
    "emulator/faults/actions.py": ("emulator/test_calls.py",),
    "emulator/faults/text_edits.py": ("emulator/test_rows.py",),
    "emulator/host_check.py": ("emulator/test_control.py",),
    "emulator/http_values.py": ("emulator/test_calls.py",),
    "emulator/protocols/chat_rows.py": ("emulator/test_rows.py", "emulator/test_openai_faults.py"),
    "emulator/protocols/families.py": ("emulator/test_jobs.py", "emulator/test_openai.py"),
    "emulator/protocols/gemini_files.py": ("emulator/test_gemini.py",),
    "emulator/protocols/gemini_rows.py": ("emulator/test_rows.py",),
    "emulator/protocols/openai_files.py": ("emulator/test_openai.py", "emulator/test_deepinfra.py"),
    "emulator/protocols/openai_rows.py": ("emulator/test_deepinfra.py", "emulator/test_openai_faults.py"),
    "emulator/protocols/row_format.py": ("emulator/test_rows.py",),
    "emulator/protocols/together_rows.py": ("emulator/test_rows.py",),
    "emulator/routing.py": ("emulator/test_calls.py",),
    "emulator/server.py": ("emulator/test_calls.py",),
    "emulator/services.py": ("emulator/test_openai.py", "emulator/test_deepinfra.py"),
    "emulator/state.py": ("emulator/test_jobs.py",),
    "emulator/storage.py": ("emulator/test_engine.py",),
    "engine/collection/download.py": ("faults/test_result_files.py",),
    "engine/collection/poll.py": ("faults/test_polls.py", "faults/test_job_states.py"),
    "engine/duplicates.py": ("faults/test_submission.py",),
    "engine/reconcile.py": ("faults/test_submission.py", "unit/providers/test_clients.py"),
    "engine/recovery/request_reader.py": ("unit/engine/test_rebuild.py",),
    "engine/session.py": ("faults/test_model_choice.py", "faults/test_setup.py"),
    "engine/settlement/settle.py": ("faults/test_rows.py", "faults/test_swapped_replies.py"),
    "engine/submission/admission.py": ("end_to_end/test_money.py", "faults/test_timeouts_and_budget.py"),
    "engine/submission/expected_length.py": ("end_to_end/test_money.py",),
    "engine/submission/rejection_limit.py": ("faults/test_rows.py",),
    "engine/submission/request_files.py": ("unit/engine/test_line_templates.py", "faults/test_hostile_seeds.py"),
    "engine/tick.py": ("end_to_end/test_main_job.py",),
    "ledger/connection.py": ("unit/ledger/test_store.py", "unit/ledger/test_migrations.py"),
    "ledger/dialogues.py": ("unit/ledger/test_queries.py",),
    "ledger/holds.py": ("unit/ledger/test_store.py", "faults/test_setup.py"),
    "ledger/pins.py": ("faults/test_model_choice.py",),
    "ledger/receipt.py": ("end_to_end/test_money.py",),
    "ledger/run.py": ("unit/engine/test_rebuild.py",),
    "ledger/status.py": ("unit/reports/test_tables.py", "end_to_end/test_main_job.py"),
    "ledger/totals.py": ("unit/ledger/test_queries.py", "end_to_end/test_money.py"),
    "providers/assumptions/assumption.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/chat.py": ("faults/test_rehearsal.py", "unit/providers/test_assumptions.py"),
    "providers/assumptions/evidence.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/job_checks.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/observer.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/probe_checks.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/probes.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/results.py": ("faults/test_rehearsal.py",),
    "providers/assumptions/row_checks.py": ("faults/test_rehearsal.py",),
    "providers/base.py": ("unit/providers/test_codecs.py", "unit/providers/test_clients.py"),
    "providers/chat_codec.py": ("unit/providers/test_codecs.py",),
    "providers/gemini_client.py": ("unit/providers/test_clients.py",),
    "providers/gemini_codec.py": ("unit/providers/test_codecs.py", "unit/providers/test_request_lines.py"),
    "providers/openai_client.py": ("unit/providers/test_clients.py", "end_to_end/test_openai_services.py"),
    "providers/openai_codec.py": ("unit/providers/test_codecs.py", "unit/providers/test_request_lines.py"),
    "providers/quotas.py": ("unit/providers/test_http_errors.py",),
    "providers/read_deadline.py": ("faults/test_timeouts_and_budget.py",),
    "providers/together_client.py": ("unit/providers/test_clients.py",),
    "providers/together_codec.py": ("unit/providers/test_codecs.py", "unit/providers/test_request_lines.py"),
    "reports/audit_estimate.py": ("end_to_end/test_audit.py",),
    "reports/audit_text.py": ("end_to_end/test_audit.py", "unit/dataset/test_audit_card.py"),
    "reports/estimate.py": ("end_to_end/test_money.py", "unit/core/test_wording.py"),
    "reports/html/audit_values.py": ("unit/reports/test_html_audit.py",),
    "reports/html/conversations.py": ("unit/reports/test_html_texts.py", "unit/reports/test_html_memory.py"),
    "reports/html/facts.py": ("unit/reports/test_html.py",),
    "reports/html/page.py": ("unit/reports/test_html_texts.py", "unit/reports/test_html_browser.py"),
    "reports/html/summary.py": ("unit/reports/test_html.py",),
    "reports/html/write.py": ("unit/reports/test_html.py",),
    "reports/progress.py": ("unit/reports/test_tables.py",),
    "reports/status_text.py": ("unit/reports/test_tables.py", "end_to_end/test_money.py"),
    "runtime/clock.py": ("support/bench.py",),
    "runtime/concurrency.py": ("unit/engine/test_sender.py", "unit/engine/test_prefetch.py"),
    "runtime/failpoints.py": ("faults/test_kills.py",),
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def functions() -> Iterator[tuple[str, Function]]:
    for path in MODULES:
        for node in ast.walk(parsed(path)):
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
        if path.read_text("utf-8").strip() and ast.get_docstring(parsed(path)) is None
    ]
    assert silent in ([], ["batchgen/__main__.py"])


def dotted(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, known: set[str]) -> set[str]:
    """The modules of ours that a file imports anywhere, inside functions included."""
    found = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.module in known:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & known) or {node.module}
    return found - {dotted(path)}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Repeatedly remove the modules that import no remaining module. A circle would remain."""
    known = {dotted(path) for path in MODULES}
    needs = {dotted(path): imports(path, known) for path in MODULES}
    while free := [name for name, needed in needs.items() if not needed & needs.keys()]:
        for name in free:
            del needs[name]
    assert sorted(needs) == []


def test_an_all_names_only_what_its_module_has() -> None:
    for path in MODULES:
        if "__all__" in path.read_text("utf-8"):
            exec(f"from {dotted(path)} import *", {})  # noqa: S102 - raises AttributeError for a name that is missing


def test_a_folder_holds_a_dozen_modules_at_most() -> None:
    counts = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > MOST_MODULES_OF_A_FOLDER} == {}


def test_every_module_has_a_test_of_its_name_or_says_what_tests_it() -> None:
    names = {path.stem for path in (REPOSITORY / "tests").rglob("test_*.py")}
    modules = {str(path.relative_to(REPOSITORY / "batchgen")): path.stem for path in MODULES if path.stem[0] != "_"}
    untested = {module for module, stem in modules.items() if f"test_{stem}" not in names}
    assert untested == TESTED_BY.keys()
    assert [test for tests in TESTED_BY.values() for test in tests if not (REPOSITORY / "tests" / test).exists()] == []


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
    assert list(COMMANDS)[:5] == ["prepare", "prompts", "estimate", "submit", "collect"]


def test_commands_with_choices_show_an_example() -> None:
    """The help of a command with a required option or argument shows an example."""
    for name in COMMANDS:
        command = command_called(name)
        if any(parameter.required for parameter in command.params):
            assert f"batchgen {name}" in (command.help or ""), name
