"""Commands for the dataset: verify, audit, report, export, publish."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from batchgen.cli.commands.base import (
    GlobalOptions,
    NumberRange,
    json_option,
    open_read_only_session,
    open_session,
    open_session_or_read,
    print_answer,
    require_prepared,
)
from batchgen.cli.paths import UserPath
from batchgen.core.wording import as_invoked


class _FormatName(click.Choice[str]):
    """The name of an export format. The names are imported when needed: their module imports polars."""

    def __init__(self) -> None:
        super().__init__(())

    @property
    def choices(self) -> tuple[str, ...]:
        from batchgen.dataset.formats import FORMATS

        return tuple(FORMATS)

    @choices.setter
    def choices(self, names: tuple[str, ...]) -> None:
        """Ignore the choices that click sets."""


@click.command(short_help="Check the finished dataset, text by text, and its exports.")
@json_option
@click.pass_obj
def verify(context: GlobalOptions, *, as_json: bool) -> None:
    """Check the finished dataset: schema, shape, and every text against the raw result line it came from.

    Each record of an export is compared with the store, if the export is still where it was written.
    """
    from batchgen.dataset.round_files import write_outdated_files
    from batchgen.dataset.verify import verify as run

    with open_session_or_read(context) as session:
        found = run(session, unchecked=write_outdated_files(session))
        print_answer(
            {"problems": found},
            as_json=as_json,
            text=as_invoked("\n".join(found)) or f"{session.layout.data}: no problems found.",
        )
        if found:
            click.get_current_context().exit(1)


@click.command(short_help="Ask a judge model whether the corrections beat the answers.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    metavar="N",
    help="Judge every round of N conversations, drawn once for the run. Default: 100. It can grow later.",
)
@click.option("--model", metavar="PROVIDER:MODEL", help="The judge. Default: the first of [audit] models that answers.")
@json_option
@click.pass_obj
def audit(context: GlobalOptions, sample: int | None, model: str | None, *, as_json: bool) -> None:
    """Ask a judge model, by batch, which of two replies is better: answer or correction. Show the figures so far.

    Each turn is judged in both orders, and the judge does not know which reply is the correction. The turns of round 1
    are judged, too: people wrote these corrections, so their figure shows how far the judge can be trusted. The
    requests are paid like all others; `estimate` has their price. `collect --advance` carries the audit on, and nothing
    of the dataset waits for it. Verdicts: data/audit.jsonl. Method: docs/audit.md.

    \b
      batchgen audit                                    # 100 conversations; later: the figures
      batchgen audit --sample 500 --model together:deepseek-ai/DeepSeek-V4-Flash-0731
    """
    from batchgen.core.dialogue import Stage
    from batchgen.dataset.audit.figures import audit_record
    from batchgen.engine.audit import begin_audit
    from batchgen.engine.tick import submit_steps
    from batchgen.reports.audit_text import audit_text

    with open_session(context) as session:
        require_prepared(session)
        begin_audit(session, sample, model)
        sent = submit_steps(session, [step for step in session.all_steps() if step.stage is Stage.AUDIT])
        record = {**(audit_record(session) or {}), "submitted": sent}
        print_answer(record, as_json=as_json, text=audit_text(record))


@click.command(short_help="Write one HTML page about the run.")
@click.option("--output", type=UserPath(), help="An .html file. Default: ROOT/data/report.html.")
@click.option(
    "--conversations",
    type=click.IntRange(min=1),
    default=2000,
    show_default=True,
    help="How many conversations the page shows at most.",
)
@json_option
@click.pass_obj
def report(context: GlobalOptions, output: Path | None, conversations: int, *, as_json: bool) -> None:
    """Write one HTML page about the run: steps, cost, batches, lengths, audit, flags, and the conversations to read.

    The page needs no network, neither when it is written nor when it is read. Works while another command runs.

    \b
      batchgen report && xdg-open data/report.html
      batchgen report --output run1.html --conversations 20000
    """
    from batchgen.reports.html.write import describe
    from batchgen.reports.html.write import report as run

    with open_read_only_session(context) as session:
        path = output.absolute() if output else session.layout.data / "report.html"
        value, text = describe(run(session, path, conversations))
        print_answer(value, as_json=as_json, text=text)


def _records(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose and describe the records of an export."""
    for option in (
        click.option(
            "--license", "license_id", default="", help="Licence for the card, e.g. cc-by-4.0; else the seeds' own."
        ),
        click.option("--split-seed", type=int, default=42, show_default=True, help="Seed of the test split."),
        click.option(
            "--test-share",
            type=NumberRange(0, 1, max_open=True),
            default=0.0,
            show_default=True,
            help="Share of the records for a test set, e.g. 0.1.",
        ),
        click.option(
            "--flags",
            default="keep",
            show_default=True,
            help="keep, or drop:NAME,... to leave flagged records out.",
        ),
    ):
        command = option(command)
    return command


@click.command(short_help="Write the finished dataset in a form that trainers read.")
@click.option("--format", "form", type=_FormatName(), required=True, help="Format of the records.")
@click.option(
    "--output",
    type=UserPath(),
    required=True,
    help="A .jsonl or .parquet file, or a folder.",
)
@_records
@json_option
@click.pass_obj
def export(  # noqa: PLR0913 - one parameter an option
    context: GlobalOptions,
    form: str,
    output: Path,
    flags: str,
    *,
    test_share: float,
    split_seed: int,
    license_id: str,
    as_json: bool,
) -> None:
    """Write the finished dataset in a format that trainers read. If --output is a folder, add a dataset card.

    `batchgen verify` also checks the export, if it is still at that path. If LLaMA-Factory can read the format, the
    files are entered in the dataset_info.json beside them.

    \b
      batchgen export --format messages --output messages.jsonl
      batchgen export --format preference --output dpo --test-share 0.1 --flags drop:refusal:correction
      batchgen export --format llamafactory --output LLaMA-Factory/data/dialogues.jsonl
      batchgen export --format parquet --output dialogues.parquet
    """
    from batchgen.dataset.export import ExportOptions, describe
    from batchgen.dataset.export import export as run

    options = ExportOptions(form, output.absolute(), flags, test_share, split_seed, license_id)
    with open_session_or_read(context) as session:
        value, text = describe(options, run(session, options))
        print_answer(value, as_json=as_json, text=text)


@click.command(short_help="Upload an export with its card to the Hugging Face hub.")
@click.argument("repository", metavar="OWNER/NAME")
@click.option("--format", "form", type=_FormatName(), required=True, help="Format of the records.")
@click.option("--private/--public", default=True, show_default=True, help="Who can read a new repository.")
@_records
@json_option
@click.pass_obj
def publish(  # noqa: PLR0913 - one parameter an option
    context: GlobalOptions,
    repository: str,
    form: str,
    flags: str,
    *,
    private: bool,
    test_share: float,
    split_seed: int,
    license_id: str,
    as_json: bool,
) -> None:
    """Upload the finished dataset and a dataset card to the Hugging Face hub; the repository is created, private.

    Needs a token that may write: HF_TOKEN, or `hf auth login`. HF_ENDPOINT is another address of the hub. Run the same
    command again after a break: what has arrived is not sent again.

    \b
      batchgen publish me/dialogues --format messages --test-share 0.1
      batchgen publish me/pairs --format preference --public --license cc-by-4.0
    """
    from tempfile import TemporaryDirectory

    from batchgen.dataset.export import ExportOptions
    from batchgen.dataset.hub import publish as hub

    target = hub.Target(repository, private)
    with TemporaryDirectory(prefix="batchgen-publish-") as folder:
        options = ExportOptions(form, Path(folder) / "export", flags, test_share, split_seed, license_id)
        with open_session_or_read(context) as session:
            hub.check_target(session, target, options)
            sent = hub.write_upload(session, target, options)
        if not context.quiet:
            click.echo(hub.describe_upload(target, sent.sizes), err=True)
        value, text = hub.describe(target, options, sent, hub.upload(target, sent.files))
        print_answer(value, as_json=as_json, text=text)
