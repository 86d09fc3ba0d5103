"""Write the dataset card: README.md beside an export, with the metadata block that the Hugging Face hub reads.

It depends only on the run and the export, not on the date: the same dataset has the same card.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from batchgen import __version__
from batchgen.core.dialogue import STAGES, Conversation, HistoryShows, Stage, Turn
from batchgen.core.prompts import build_prompt
from batchgen.core.wording import markdown_table, pluralize
from batchgen.dataset.audit.card_section import audit_section
from batchgen.dataset.formats import FORMATS
from batchgen.dataset.hub.seed_terms import DEFAULT_DATASET, NOT_FOR_ALL, SeedTerms
from batchgen.dataset.manifest import instructions_at, known_facts
from batchgen.dataset.quality.flags import FLAGS, LABELS
from batchgen.dataset.quality.patterns import LANGUAGES
from batchgen.dataset.rows.row_files import file_format
from batchgen.ledger.receipt import cost_summary
from batchgen.ledger.rows import Batch, BatchState
from batchgen.ledger.run import Run
from batchgen.ledger.status import timestamp

CARD = "README.md"
CARD_MARKER = "<!-- written by batchgen export -->"
LICENSE = "cc-by-nc-4.0"
# The card names a language if at least this share of the conversations begins in its writing system.
MIN_LANGUAGE_SHARE = 0.05
SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)

_SHOWN = {
    HistoryShows.CORRECTIONS: "By the run's settings, the question and the correction stage see earlier turns without"
    " their answers: as the user saw them.",
    HistoryShows.EVERYTHING: "By the run's settings, the question and the correction stage see earlier turns with their"
    " answers.",
}


class SplitFile(NamedTuple):
    """One file of an export and its number of records."""

    path: Path
    rows: int


class ExportFacts(NamedTuple):
    """Facts of an export for its card. `labels` counts records by label, `scripts` dialogues by writing system."""

    form: str
    parts: Mapping[str, SplitFile]
    conversations: int
    labels: Mapping[str, int]
    left_out: Mapping[str, int]
    scripts: Mapping[str, int]
    terms: SeedTerms

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts.values())


def card(run: Run, facts: ExportFacts, command: str) -> str:
    """Return the README.md of the export that `command` writes."""
    sections = [
        _introduction(run, facts),
        f"## Content warning\n\n{_content(run, facts.terms)} {_WARNING}",
        _format(run, facts, command),
        _provenance(run),
        _prompts(run),
        _left_behind(run, facts),
        audit_section(run),
        _flags(facts),
        f"## Licence\n\n{_licence(run, facts.terms)} {_MODELS_TERMS}",
    ]
    return f"---\n{_metadata(run, facts)}\n---\n{CARD_MARKER}\n\n" + "\n\n".join(filter(None, sections)) + "\n"


def may_replace_with_card(path: Path) -> bool:
    """Return whether a card may be written to `path`: it is a card, or it does not exist."""
    return not path.exists() or CARD_MARKER in path.read_text("utf-8", errors="replace")


def read_card_rows(path: Path) -> dict[str, int]:
    """Return the number of records of each split as the card states it; {} if there is no card."""
    from huggingface_hub import DatasetCard

    if not path.exists():
        return {}
    stated = DatasetCard.load(path, ignore_metadata_errors=True).data.get("dataset_info") or {}
    return {str(split["name"]): int(split["num_examples"]) for split in stated.get("splits", [])}


# ---------------------------------------------------------------- the metadata block


def _metadata(run: Run, facts: ExportFacts) -> str:
    from huggingface_hub import DatasetCardData

    form, terms = FORMATS[facts.form], facts.terms
    source = _source(run)
    schema = form.schema(run.settings.rounds)
    splits = [
        {"name": split, "num_bytes": part.path.stat().st_size, "num_examples": part.rows}
        for split, part in facts.parts.items()
    ]
    data = DatasetCardData(
        language=list(terms.languages) or _languages(facts.scripts),
        license=license_ids(run, terms),
        license_name=terms.license_name or None,
        license_link=terms.license_link or None,
        annotations_creators="machine-generated",
        language_creators=["found", "machine-generated"],
        size_categories=next((name for limit, name in SIZES if facts.rows < limit), "n>10M"),
        source_datasets=[source] if "/" in source else None,
        task_categories=["text-generation"],
        pretty_name=f"Multi-turn dialogues grown from {source}, {facts.form}",
        tags=["multi-turn", "synthetic", *form.tags, *[NOT_FOR_ALL] * (source == DEFAULT_DATASET or terms.not_for_all)],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": part.path.name} for split, part in facts.parts.items()],
            }
        ],
        dataset_info={"features": [_feature(name, kind) for name, kind in schema.items()], "splits": splits},
    )
    return data.to_yaml()


def license_ids(run: Run, terms: SeedTerms) -> str | list[str] | None:
    if _has_default_licence(run, terms):
        return LICENSE
    return terms.licenses[0] if len(terms.licenses) == 1 else list(terms.licenses) or None


def _feature(name: str, kind: Any) -> dict[str, Any]:
    """Return a column as a feature of the `datasets` library."""
    return {"name": name, **_feature_type(kind)}


def _feature_type(kind: Any) -> dict[str, Any]:
    if isinstance(kind, (pl.List, pl.Array)):
        inner = _feature_type(kind.inner)
        length = {"length": kind.size} if isinstance(kind, pl.Array) else {}
        return {"list": inner.get("dtype") or inner["struct"], **length}
    if isinstance(kind, pl.Struct):
        return {"struct": [_feature(field.name, field.dtype) for field in kind.fields]}
    return {"dtype": "int64" if kind == pl.Int64 else "string"}


def _languages(scripts: Mapping[str, int]) -> list[str]:
    """Return the usual language of each writing system; Latin counts as English."""
    total = sum(scripts.values())
    common = [
        name
        for name, count in sorted(scripts.items(), key=lambda item: -item[1])
        if count >= MIN_LANGUAGE_SHARE * total
    ]
    return [LANGUAGES[name] for name in common if name in LANGUAGES] or ["und"]


def _source(run: Run) -> str:
    """Return the seeds' dataset id, or the name of their file without its folder."""
    source = run.store.fact("source") or "unknown seeds"
    is_file = file_format(source) is not None or source.count("/") != 1 or source.startswith((".", "/"))
    return Path(source).name if is_file else source


# ---------------------------------------------------------------- the text


_WARNING = (
    "Rejected answers and uncorrected text are there to learn what not to say. Facts in any text may be wrong; none of"
    " it was checked by a person."
)
_MODELS_TERMS = (
    "The texts of the later rounds were written by the models named above, and their makers' terms apply to what may be"
    " trained on them."
)


def _content(run: Run, terms: SeedTerms) -> str:
    """Return what kind of text the seeds are, as far as it is known."""
    if _source(run) == DEFAULT_DATASET:
        return (
            "The seeds come from safety data: questions and answers may be violent, sexual, hateful or otherwise"
            " offensive, and answers are bad on purpose."
        )
    if terms.not_for_all:
        return (
            f"The card of {_source(run)} says that the seeds are not for all audiences, and answers are bad on purpose."
        )
    return (
        f"The content is that of the seeds ({_source(run)}), which is unknown to the program: it may be offensive."
        " Answers are bad on purpose."
    )


def _licence(run: Run, terms: SeedTerms) -> str:
    """Return which licence holds and who says so."""
    if _has_default_licence(run, terms):
        return (
            f"`{LICENSE}`, inherited from aligner-20K (PKU-Alignment): non-commercial use, with attribution. Seeds of"
            " your own have their own licence; change the metadata above accordingly."
        )
    names = ", ".join(f"`{each}`" for each in terms.licenses)
    if terms.given:
        return f"{names}, as stated by whoever made this export."
    if names:
        return f"{names}, as the card of the seeds ({_source(run)}) says."
    return (
        f"The licence is that of the seeds ({_source(run)}), which is unknown to the program. Find it out before you"
        " share this dataset, and state it with `batchgen export --license ID`."
    )


def _has_default_licence(run: Run, terms: SeedTerms) -> bool:
    return not terms.given and _source(run) == DEFAULT_DATASET


def _introduction(run: Run, facts: ExportFacts) -> str:
    rounds = run.settings.rounds
    return (
        f"# {facts.conversations} dialogues of {rounds} rounds\n\n"
        f"Grown from the single-turn triples of {_source(run)}: each round has a question, a first answer that is"
        f" not good, and its correction. Round 1 is the seed; rounds 2 to {rounds} were written by language models"
        f" through batch APIs with batchgen {__version__}."
    )


def _format(run: Run, facts: ExportFacts, command: str) -> str:
    form = FORMATS[facts.form]
    columns = markdown_table(("column", "type"), form.schema(run.settings.rounds).items())
    parts = markdown_table(
        ("split", "file", "rows"), ((split, part.path.name, part.rows) for split, part in facts.parts.items())
    )
    split = (
        "\n\nConversations that begin with the same question, or that nearly copy each other, are on the same side of"
        " the split."
        if len(facts.parts) > 1
        else ""
    )
    return f"## Format\n\n`{facts.form}`: {form.meaning}.\n\n{columns}\n\n{parts}{split}\n\nMade by `{command}`."


def _provenance(run: Run) -> str:
    """Return the section on which model wrote what, when, and at which cost."""
    batches = [batch for batch in run.store.batches(BatchState.COLLECTED) if batch.requests]
    written = Counter[tuple[int, str, str, str]]()
    for batch in batches:
        written[batch.step.round, batch.step.stage, batch.provider, batch.model] += batch.requests
    rows = [(1, "all", "seed", _source(run), run.conversations)]
    table = markdown_table(
        ("round", "text", "by", "model", "requests"), [*rows, *((*who, n) for who, n in written.items())]
    )
    began = timestamp(min((batch.job.submitted_at or batch.plan.planned_at for batch in batches), default=None))
    ended = timestamp(max((batch.job.collected_at or batch.plan.planned_at for batch in batches), default=None))
    paid = cost_summary(run.store, run.settings)
    least = "at least " if paid.unpriced else ""
    return (
        f"## How it was made\n\n{table}\n\nFirst batch sent {began}, last one read {ended}. All batches together cost"
        f" {least}${paid.spent_usd:.4f} by the prices known to batchgen."
    )


def _prompts(run: Run) -> str:
    """Return the section with the system texts of each stage; the dialogue follows them as data.

    If the texts of a stage changed in mid-run, it says which batches were asked with which.
    """
    facts, used = known_facts(run.layout), dict[Stage, dict[str, list[Batch]]]()
    for batch in run.store.batches(BatchState.COLLECTED):
        if batch.step.stage is Stage.AUDIT:  # no text of the dataset
            continue
        text = _system(
            run, batch.step.stage, instructions_at(facts, batch.number), follow_up=bool(batch.plan.follow_up)
        )
        used.setdefault(batch.step.stage, {}).setdefault(text, []).append(batch)
    said = []
    for stage in STAGES:
        asked = used.get(stage) or {_system(run, stage, run.settings.own_instructions(), follow_up=False): []}
        for text, batches in asked.items():
            which = f"; {_batches_text(batches, asked.values())}" if len(asked) > 1 else ""
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            head = f"{stage} (temperature {run.settings.stage(stage).temperature:g}{which})"
            said.append(f"{head}:\n\n{fence}text\n{text}\n{fence}")
    return f"## Prompts\n\n{_SHOWN[run.settings.history.shows]}\n\n" + "\n\n".join(said)


def _system(run: Run, stage: Stage, own: Mapping[Stage, str], *, follow_up: bool) -> str:
    """Return the system text of a stage that is asked with the instructions `own`."""
    return build_prompt(
        Conversation(1, (Turn("-"),)),
        stage,
        target_characters=run.settings.stage(stage).target_characters,
        history_messages=run.settings.history_messages,
        shows=run.settings.history.shows,
        follow_up=follow_up,
        own=own,
    ).system


def _batches_text(batches: Sequence[Batch], asked: Iterable[Sequence[Batch]]) -> str:
    """Name batches by their numbers, and count their requests by round. `asked` are all batches of the stage."""
    turns, numbers = Counter[int](), {batch.number for batch in batches}
    for batch in batches:
        turns[batch.step.round] += batch.requests
    ordered = sorted(batch.number for some in asked for batch in some)
    runs = [list(some) for mine, some in groupby(ordered, numbers.__contains__) if mine]
    named = ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    counted = ", ".join(f"round {number}: {pluralize(count, 'request')}" for number, count in sorted(turns.items()))
    return f"{'batches' if len(batches) > 1 else 'batch'} {named}; {counted}"


def _left_behind(run: Run, facts: ExportFacts) -> str:
    reasons = Counter((step.stage, reason) for _, step, reason, _, _ in run.store.dialogues.rejected_conversations())
    rejected = sum(reasons.values())
    lines = [f"## What is not in it\n\n{rejected} of {run.conversations} conversations were rejected."]
    if reasons:
        lines.append(
            markdown_table(("stage", "reason", "conversations"), ((*key, n) for key, n in sorted(reasons.items())))
        )
    if facts.left_out:
        lines.append("Records left out of this export:")
        lines.append(markdown_table(("reason", "records"), sorted(facts.left_out.items())))
    return "\n\n".join(lines)


def _flags(facts: ExportFacts) -> str:
    """Return the section with every label, its meaning, and its number of records."""
    rows = [
        (f"`{label}`", FLAGS[name].meaning, count := facts.labels.get(label, 0), f"{count / max(facts.rows, 1):.1%}")
        for label, (name, _) in LABELS.items()
    ]
    what = "Flags describe; nothing was removed because of them unless the table above says so."
    return f"## Flags\n\n{what}\n\n" + markdown_table(("flag", "meaning", "records", "share"), rows)
