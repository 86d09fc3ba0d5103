"""Commands for the run: prepare, prompts, estimate, submit, collect, run, status, receipt."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from batchgen.cli.commands.base import (
    GlobalOptions,
    json_option,
    open_session,
    open_session_or_read,
    print_answer,
    require_prepared,
    select_steps,
    unprepared_error,
)
from batchgen.cli.paths import UserInput
from batchgen.core.dialogue import FIRST_ROUND, STAGES, Stage
from batchgen.core.wording import as_invoked, pluralize
from batchgen.runtime.streams import table_width

if TYPE_CHECKING:
    from batchgen.engine.session import Session


@click.command(short_help="Read triples, keep the good ones, write round 1.")
@click.option(
    "--input",
    "source",
    type=UserInput(),
    default="aligner/aligner-20K",
    show_default=True,
    help="A file or a dataset id.",
)
@click.option("--limit", type=click.IntRange(min=1), default=200, show_default=True, help="How many rows to draw.")
@click.option("--all", "everything", is_flag=True, help="Take every row, in file order; not with --limit.")
@click.option("--sample-seed", type=int, default=42, show_default=True, help="Seed of the random draw.")
@click.option("--no-shuffle", is_flag=True, help="Take the first rows in file order instead of drawing.")
@click.option("--columns", default="", metavar="FIELD=PATH,...", help="Where question, answer and correction are.")
@click.option("--file", default="", metavar="NAME", help="One file of a dataset or folder; * for several.")
@json_option
@click.pass_context
def prepare(  # noqa: PLR0913 - one parameter an option
    call: click.Context,
    source: str,
    limit: int,
    *,
    everything: bool,
    sample_seed: int,
    no_shuffle: bool,
    columns: str,
    file: str,
    as_json: bool,
) -> None:
    """Read question/answer/correction triples, leave out unusable ones, and write round 1.

    \b
    Files: .jsonl, .json (array), .csv, each also .gz/.xz/.zst, and .parquet; or a Hugging Face dataset id.
      batchgen prepare --input train.jsonl.xz --limit 200
      batchgen prepare --input aligner/aligner-20K --all

    \b
    Preference pairs are recognized: UltraFeedback, hh-rlhf, ShareGPT, OpenAI. For others, name the places:
      batchgen prepare --input pairs.jsonl \\
        --columns question=prompt,answer=rejected.-1.content,correction=chosen.-1.content
    """
    from batchgen.dataset.prepare import PrepareOptions, describe
    from batchgen.dataset.prepare import prepare as run

    if everything and call.get_parameter_source("limit") is ParameterSource.COMMANDLINE:
        raise click.UsageError(f"--all takes every row, --limit {limit} does not: leave one of them out.", call)
    options = PrepareOptions(source, None if everything else limit, sample_seed, not no_shuffle, columns, file)
    with open_session(call.obj, create=True) as session:
        done = run(session, options, lambda text: None if call.obj.quiet else click.echo(text, err=True))
        value, text = describe(done)
        print_answer(value, as_json=as_json, text=text)


@click.command(short_help="What each stage is asked, for one conversation.")
@click.option("--id", "wanted", metavar="ID", help="A conversation, e.g. r1-000007. Default: the first.")
@click.option("--stage", type=click.Choice([stage.value for stage in STAGES]), help="Only this stage.")
@json_option
@click.pass_obj
def prompts(context: GlobalOptions, *, wanted: str | None, stage: str | None, as_json: bool) -> None:
    """Print what each stage would be asked for one conversation, and the built-in instructions as a start to copy.

    Shows the system text, the messages and the JSON fields of the reply. Changes nothing, and works while another
    command runs. Texts that are not written yet are shown as [QUESTION], [ANSWER], [CORRECTION]. Without a prepared
    run the conversation is an example.

    \b
      batchgen prompts
      batchgen prompts --id r1-000007 --stage question
      batchgen prompts --stage correction --json

    \b
    Instructions of your own, in batchgen.toml ({length} stands for target_characters):
      [question]
      instructions = "Ask the next question as a child of eight would."
    """
    from batchgen.cli.prompted import prompted_session
    from batchgen.reports.stage_prompts import describe, prompts_of

    with prompted_session(context, wanted) as (session, conversation):
        found = prompts_of(session, conversation, [Stage(stage)] if stage else list(STAGES))
        value, text = describe(session, conversation, found)
        print_answer(value, as_json=as_json, text=text)


@click.command(short_help="Tokens, dollars and batches per step, before you pay.")
@click.option("--models", is_flag=True, help="Show what the run costs with each model whose price is known.")
@json_option
@click.pass_obj
def estimate(context: GlobalOptions, *, models: bool, as_json: bool) -> None:
    """Print tokens, dollars and batches per step, before anything is paid. Makes no network calls."""
    from batchgen.reports.audit_estimate import describe_audit
    from batchgen.reports.estimate import describe
    from batchgen.reports.estimate import estimate as run

    with open_session_or_read(context) as session:
        if models:
            _compare_models(session, as_json=as_json)
            return
        value, text = describe(session, run(session))
        audit, sentence = describe_audit(session)
        print_answer({**value, "audit": audit}, as_json=as_json, text=f"{text}\n{as_invoked(sentence)}")


def _compare_models(session: Session, *, as_json: bool) -> None:
    from batchgen.reports.model_comparison import compare_models, describe

    # A session that only reads has no environment: the root's .env may be unreadable.
    value, text = describe(compare_models(session, session.environment or os.environ))
    print_answer(value, as_json=as_json, text=text)


@click.command(short_help="Send every conversation that is ready for a stage.")
@click.option("--stage", type=click.Choice([stage.value for stage in Stage]), required=True, help="The stage to send.")
@click.option("--round", "number", type=click.IntRange(min=FIRST_ROUND), help="Only this round.")
@click.option("--dry-run", is_flag=True, help="Say what would be sent and what it would cost; send nothing.")
@json_option
@click.pass_obj
def submit(context: GlobalOptions, stage: str, number: int | None, *, dry_run: bool, as_json: bool) -> None:
    """Send every conversation that is ready for a stage: write request files, upload them, create batches.

    \b
      batchgen submit --stage question --dry-run
      batchgen submit --stage correction --round 2
    """
    from batchgen.engine.tick import submit_steps
    from batchgen.reports.dry_run import describe, preview

    with open_session(context) as session:
        require_prepared(session)
        wanted = select_steps(session, stage, number)
        if dry_run:
            value, text = describe(*preview(session, wanted), show_request=context.verbose)
            print_answer(value, as_json=as_json, text=text)
            return
        sent = submit_steps(session, wanted)
        print_answer(
            {"submitted": sent}, as_json=as_json, text=f"{pluralize(sent, 'batch')} submitted." if sent else ""
        )
        ready = any(session.store.ready_attempts(step) for step in wanted)
        if not sent and not session.troubles and not as_json:
            click.echo(
                as_invoked(f"Nothing can be submitted for the {stage} stage now; `batchgen status` shows the reason.")
                if ready
                else f"No conversation is ready for the {stage} stage.",
                err=True,
            )


@click.command(short_help="Poll the batches in flight, and read what has ended.")
@click.option("--advance", is_flag=True, help="Then submit what has become ready (use this in cron).")
@click.option("--wait", is_flag=True, help="Keep polling until nothing is in flight; with --advance until finished.")
@json_option
@click.pass_obj
def collect(context: GlobalOptions, *, advance: bool, wait: bool, as_json: bool) -> None:
    """Ask for the state of every batch in flight, read the results of ended ones, write the round files.

    A batch is in flight from the time it is created at its provider until its results are read.

    \b
      */5 * * * *  batchgen --root /data/run1 collect --advance
    """
    from batchgen.engine.tick import tick
    from batchgen.reports.notify import notifying

    with open_session(context) as session:
        require_prepared(session)
        if wait:
            _wait(session, context, advance=advance, as_json=as_json)
        else:
            with notifying(session) as notify:
                done = tick(session, advance=advance)
                notify()
            text = (
                f"{pluralize(done.collected, 'batch')} collected, {done.submitted} submitted."
                if done.made_progress
                else ""
            )
            print_answer(
                {"collected": done.collected, "submitted": done.submitted, "written": [str(p) for p in done.written]},
                as_json=as_json,
                text=text,
            )


@click.command(short_help="Everything that is left to do, in the foreground.")
@click.pass_obj
def run(context: GlobalOptions) -> None:
    """Do everything that is left to do, in the foreground. Run `prepare` first.

    Ctrl-C loses nothing: start `run` again, or let cron go on with `collect --advance`.
    """
    with open_session(context) as session:
        require_prepared(session)
        _wait(session, context, advance=True, as_json=False)


def _wait(session: Session, context: GlobalOptions, *, advance: bool, as_json: bool) -> None:
    from batchgen.engine.tick import tick_until_done
    from batchgen.ledger.status import status as read
    from batchgen.reports.notify import notifying
    from batchgen.reports.progress import show_progress, summary
    from batchgen.runtime import clock

    live = not context.quiet and bool(table_width(sys.stderr))
    with show_progress(session, live=live) as show, notifying(session) as notify:

        def after_tick() -> None:
            show()
            notify()

        tick_until_done(session, advance=advance, sleep=clock.sleep, show=after_tick)
    value = read(session.store, session.settings, session.now(), ended=as_json)
    print_answer(value, as_json=as_json, text=summary(value))


@click.command(short_help="Where every conversation and every batch is.")
@json_option
@click.pass_obj
def status(context: GlobalOptions, *, as_json: bool) -> None:
    """Show where every conversation and every batch is. Works while another command runs."""
    from batchgen.ledger.connection import translate_sqlite_errors
    from batchgen.ledger.rows import REBUILDING_FACT
    from batchgen.ledger.status import status as read
    from batchgen.ledger.store import Store
    from batchgen.reports.status_text import status_text
    from batchgen.runtime import clock
    from batchgen.runtime.files import Layout, lost_store_error

    path = Layout(context.root).store
    with translate_sqlite_errors(path):
        store = Store.read(path)
        value = read(store, context.settings(), clock.now(), ended=as_json)
        half_rebuilt = store is not None and bool(store.fact(REBUILDING_FACT))
    if half_rebuilt:
        click.echo(as_invoked("The store is only half rebuilt. Finish it: batchgen rebuild"), err=True)
    if not value["conversations"] and (lost := lost_store_error(Layout(context.root))):
        raise lost
    if not as_json and (columns := table_width(sys.stdout)):
        from batchgen.reports.tables import print_status

        print_status(value, columns)
    else:
        print_answer(value, as_json=as_json, text=status_text(value))


@click.command(short_help="What was really paid, per step and model.")
@json_option
@click.pass_obj
def receipt(context: GlobalOptions, *, as_json: bool) -> None:
    """Show what was really paid, per step and model, beside the estimate. Works while another command runs.

    The same facts are in data/receipt.json. Batches in flight are not billed yet: see `batchgen status`.
    """
    from batchgen.ledger.connection import translate_sqlite_errors
    from batchgen.ledger.receipt import receipt as read
    from batchgen.ledger.store import Store
    from batchgen.reports.status_text import receipt_text
    from batchgen.runtime.files import Layout

    path, settings = Layout(context.root).store, context.settings()
    with translate_sqlite_errors(path):
        store = Store.read(path)
        if store is None:
            raise unprepared_error(context.root)
        value = read(store, settings)
    print_answer(value, as_json=as_json, text=receipt_text(value))
