"""The command line: global options, the list of commands, and error handling.

The module of a command is imported only when that command runs: every import takes time at every tick of cron.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from copy import copy
from importlib import import_module
from pathlib import Path

import click

from batchgen import __version__
from batchgen.cli.commands.base import GlobalOptions
from batchgen.cli.exit_status import print_error, report_interrupt, report_lost_answer, report_os_error
from batchgen.cli.paths import UserPath
from batchgen.core.errors import BatchgenError
from batchgen.core.wording import COMMANDS, as_invoked, program_name
from batchgen.runtime.environment import mask_keys
from batchgen.runtime.files import system_error
from batchgen.runtime.logging_setup import configure
from batchgen.runtime.memory import configure_jemalloc, set_mmap_threshold
from batchgen.runtime.streams import force_utf8_output, unfailing_streams

HELP_OPTIONS = frozenset({"-h", "--help"})
# These often have nothing to do, and must then be short. `Session.connect` prepares them for long work.
SHORT_COMMANDS = frozenset({"status", "receipt", "submit", "collect", "run"})
COMPLETION_VARIABLE = "_BATCHGEN_COMPLETE"  # set by the shell; it completes only the installed name of the program


class LazyGroup(click.Group):
    """A click group that imports the module of a command when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(COMMANDS)  # in the order in which a run uses them

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - likewise
        if cmd_name not in COMMANDS:
            return None
        module = import_module(f"batchgen.cli.commands.{COMMANDS[cmd_name]}")
        found: click.Command = copy(getattr(module, cmd_name))
        if not HELP_OPTIONS.isdisjoint(sys.argv):
            found.help = as_invoked(found.help or "")  # so that its examples can be copied
        return found

    def get_help(self, ctx: click.Context) -> str:
        return as_invoked(super().get_help(ctx))

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. click would treat any broken pipe as one of stdout and exit with 1, which means `verify
        found it`.
        """
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise system_error(error) from None


@click.group(cls=LazyGroup, context_settings={"help_option_names": sorted(HELP_OPTIONS), "max_content_width": 110})
@click.option(
    "--root",
    type=UserPath(),
    envvar="BATCHGEN_ROOT",
    default=Path(),
    help="The run's folder. Default: $BATCHGEN_ROOT, or here.",
)
@click.option("--config", type=UserPath(), help="Default: ROOT/batchgen.toml.")
@click.option("-v", "--verbose", is_flag=True, help="Log more, with times.")
@click.option("-q", "--quiet", is_flag=True, help="Log warnings only.")
@click.version_option(__version__, prog_name="batchgen")
@click.pass_context
def cli(context: click.Context, root: Path, config: Path | None, *, verbose: bool, quiet: bool) -> None:
    """Grow question/answer/correction triples into multi-turn dialogues over Gemini, Together and other batch APIs.

    \b
    A first run, no key needed:
      batchgen demo
    A real one:
      batchgen doctor                   # checks keys, models and prices
      batchgen prepare --input aligner/aligner-20K --limit 200
      batchgen estimate                 # what it will cost
      batchgen submit --stage question
      batchgen collect --advance        # every few minutes (cron), until `batchgen status` says finished
      batchgen verify

    Exit status: 0 done or nothing to do, 1 `verify` or `rehearse` found something wrong, 2 wrong usage or
    configuration, 3 you must decide something, 75 temporary problem (the next `collect --advance` goes on),
    130 interrupted.
    """
    mask_keys(os.environ)
    if context.invoked_subcommand not in SHORT_COMMANDS:
        set_mmap_threshold()
    configure(verbose=verbose, quiet=quiet)
    context.obj = GlobalOptions(root.absolute(), config, verbose=verbose, quiet=quiet)


def hint_global_option(error: click.ClickException) -> None:
    """Tell a user who wrote `status --root DIR` that this option belongs before the command."""
    if not isinstance(error, click.NoSuchOption) or error.ctx is None:
        return
    for option in cli.params:
        if isinstance(option, click.Option) and error.option_name in option.opts:
            named = f"{error.option_name}{'' if option.is_flag else ' PATH'} {error.ctx.info_name}"
            click.echo(as_invoked(f"  Write it before the command: batchgen {named}"), err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command, and turn an error into a line and an exit status. Returns on success."""
    force_utf8_output()
    configure_jemalloc()
    with unfailing_streams() as stdout:
        code = _run(arguments)
        stdout.flush()
        if stdout.lost is not None:
            lost = report_lost_answer(stdout.lost)
            code = code or lost
    if code:
        sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int:
    """Run a command and return its exit status; errors are printed."""
    try:
        code = cli.main(
            arguments,
            prog_name="batchgen" if COMPLETION_VARIABLE in os.environ else program_name(),
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
        )
    except click.ClickException as error:
        error.show()
        hint_global_option(error)
        return error.exit_code
    except BatchgenError as error:
        print_error(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        return report_interrupt(error)
    except OSError as error:
        return report_os_error(error)
    return code if isinstance(code, int) else 0
