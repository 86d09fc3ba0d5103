"""Commands for a person between ticks: retry, cancel, clean, switch, rebuild, doctor."""

from __future__ import annotations

import click

from batchgen.cli.commands.base import (
    GlobalOptions,
    NumberRange,
    json_option,
    open_session,
    print_answer,
    require_prepared,
    select_steps,
)
from batchgen.core.dialogue import FIRST_ROUND, Stage
from batchgen.core.outcomes import Reason
from batchgen.core.wording import pluralize
from batchgen.runtime.settings import PROVIDERS

REASONS = [reason.value for reason in Reason if reason is not Reason.ACCEPTED]


@click.command(short_help="Make rejected conversations ready again.")
@click.option("--stage", type=click.Choice(list(map(str, Stage))), help="Only this stage.")
@click.option("--round", "number", type=click.IntRange(min=FIRST_ROUND), help="Only this round.")
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    metavar="REASON",
    help="Only conversations rejected for this reason (see data/rejected.jsonl).",
)
@json_option
@click.pass_obj
def retry(context: GlobalOptions, stage: str | None, number: int | None, reason: str | None, *, as_json: bool) -> None:
    """Make rejected conversations ready again, with all their attempts, and let their stopped steps go on.

    \b
      batchgen retry --stage correction --reason truncated
    """
    from batchgen.dataset.round_files import write_due_files
    from batchgen.engine.maintenance import retry as run

    with open_session(context) as session:
        require_prepared(session)
        done = run(session, select_steps(session, stage, number), reason)
        text = f"{pluralize(done.conversations, 'conversation')} ready again, {pluralize(done.halts, 'halt')} lifted."
        print_answer(done._asdict(), as_json=as_json, text=text)
        write_due_files(session)


@click.command()
@json_option
@click.pass_obj
def cancel(context: GlobalOptions, *, as_json: bool) -> None:
    """Ask the providers to stop every batch in flight. What is finished by then is still collected.

    What is not finished becomes ready again. Stop cron first, or the next `collect --advance` submits it.
    """
    from batchgen.engine.maintenance import cancel as run

    with open_session(context) as session:
        asked = run(session)
        print_answer(
            {"cancelled": asked}, as_json=as_json, text=f"{pluralize(asked, 'batch')}: cancellation asked for."
        )


@click.command()
@json_option
@click.pass_obj
def clean(context: GlobalOptions, *, as_json: bool) -> None:
    """Delete input files and finished jobs at the providers. Deletes nothing that this run did not create.

    Deletes only what belongs to batches whose results are in `results/`. Only Gemini has a call to delete a job.
    """
    from batchgen.engine.maintenance import clean as run

    with open_session(context) as session:
        done = run(session)
        text = f"{pluralize(done.files, 'input file')} and {pluralize(done.jobs, 'finished job')} deleted."
        print_answer({"deleted": done.files, "jobs": done.jobs}, as_json=as_json, text=text)


@click.command(short_help="Use another model from now on.")
@click.argument("name", metavar="STAGE|PROVIDER", type=click.Choice([*map(str, Stage), *PROVIDERS]))
@click.argument("model", required=False)
@json_option
@click.pass_obj
def switch(context: GlobalOptions, name: str, model: str | None, *, as_json: bool) -> None:
    """Use another model of the list from now on: MODEL, or the next one that is served.

    The first argument is a stage (question, answer, correction), or a provider, which means every stage that it
    writes. MODEL must be in the list in batchgen.toml. A stage keeps its model for the whole run. If the provider
    withdraws the model, the stage stops (status 3) until you switch, or take the model off the list.
    Batches in flight are not changed.

    \b
      batchgen switch answer                                # the next model of its list
      batchgen switch correction gemini:gemini-3.5-flash-lite
      batchgen switch together Qwen/Qwen3.5-9B
    """
    from batchgen.engine.maintenance import switch as run

    with open_session(context) as session:
        require_prepared(session)
        switched = run(session, name, model)
        first = next(iter(switched.values()))
        value = {**first._asdict(), "stages": {stage.value: str(choice) for stage, choice in switched.items()}}
        lines = [f"{stage}: {choice.model} of {choice.provider} from now on." for stage, choice in switched.items()]
        print_answer(value, as_json=as_json, text="\n".join(lines))


@click.command(short_help="Rebuild a lost store from requests/ and results/.")
@json_option
@click.pass_obj
def rebuild(context: GlobalOptions, *, as_json: bool) -> None:
    """Rebuild a lost store from `requests/` and `results/` alone. Makes no network calls and costs nothing.

    \b
      mv data/batchgen.sqlite data/batchgen.sqlite.broken && batchgen rebuild && batchgen verify
    """
    from batchgen.dataset.manifest import read_facts
    from batchgen.engine.recovery.rebuild import rebuild as run
    from batchgen.runtime.files import Layout

    read_facts(Layout(context.root))  # raises an error before anything is created, if there was never a run
    with open_session(context, create=True) as session:
        done = run(session)
        text = f"{pluralize(done.conversations, 'conversation')}, {pluralize(done.settled, 'batch')} settled again"
        text += f", {done.open} whose ending is not known (see status)." if done.open else "."
        print_answer(done._asdict(), as_json=as_json, text=text)


@click.command(short_help="Check keys, addresses, models, limits and prices.")
@click.option("--models", "every_model", is_flag=True, help="Ask each model with a known price, not only yours.")
@json_option
@click.pass_obj
def doctor(context: GlobalOptions, *, every_model: bool, as_json: bool) -> None:
    """Check keys, addresses, proxy, TLS certificates, limits and prices, and ask each model for one token.

    \b
      batchgen doctor && batchgen submit --stage question
      batchgen doctor --models          # which models of `estimate --models` answer to your keys
    """
    from batchgen.cli.doctor import check_setup, describe, first_problem
    from batchgen.runtime.environment import read_environment

    environment = read_environment(context.root)
    found = check_setup(context.settings(), environment, context.root, every_model=every_model)
    print_answer(found, as_json=as_json, text=describe(found))
    if problem := first_problem(found):
        raise problem


@click.command(short_help="Two seeds through all steps; check what is assumed.")
@click.option("--conversations", type=click.IntRange(1, 36), metavar="N", help="How many shipped seeds.  [default: 2]")
@click.option("--max-usd", type=NumberRange(min=0), default=0.01, show_default=True, help="Refuse to cost more.")
@click.option("--wait", is_flag=True, help="Keep polling until everything is seen.")
@json_option
@click.pass_context
def rehearse(call: click.Context, conversations: int | None, max_usd: float, *, wait: bool, as_json: bool) -> None:
    """Rehearse a run: two seeds through all six steps with your own settings, keys and models, in ROOT/rehearsal.

    Checks each assumption that this program makes of a provider, and prints whether it is held, broken or not seen yet.
    All of it is in ROOT/rehearsal/rehearsal.json, without keys and without texts: attach it to a report. Run the
    command again to carry it on. To begin again, delete ROOT/rehearsal. What each check is: docs/rehearsal.md.

    \b
      batchgen rehearse                 # creates the first batches
      batchgen rehearse                 # later: goes on, and shows what was seen
      batchgen rehearse --wait          # until everything is seen
      batchgen rehearse --max-usd 0.05

    Exit status: 0 nothing is broken, or the run copes; 1 something broken that a run relies on; 2, 3, 75 as everywhere.
    """
    from batchgen.cli.rehearsal import rehearse as run

    if code := run(call.obj, conversations, max_usd, wait=wait, as_json=as_json):
        call.exit(code)
