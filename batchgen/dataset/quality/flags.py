"""Flag what may be wrong with a finished turn, for reading, counting and filtering. A flag rejects nothing by itself.

A flag is a pure function of a frame of turns (schema TURNS_SCHEMA, whole conversations in order, with the columns that
`survey.Survey.add_context` adds) and of a field; it returns one Boolean per turn. FLAGS lists all flags.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import groupby, pairwise
from typing import NamedTuple
from unicodedata import east_asian_width

import polars as pl

from batchgen.core.dialogue import FIRST_ROUND, STAGES, Conversation, HistoryShows, Stage, Turn
from batchgen.core.judging import Winner
from batchgen.core.prompts import build_prompt
from batchgen.dataset.quality import patterns
from batchgen.dataset.quality.similarity import (
    ECHO_RUN_BYTES,
    ECHO_WHOLE_TEXT_BYTES,
    drifts,
    echoes,
    is_repetitive,
    nearly_equal,
    normalized_words,
    same_question,
    scripts,
)
from batchgen.runtime.settings import RETRY_FLAGS

TURNS_SCHEMA = pl.Schema(
    {"number": pl.Int64, "round": pl.Int64, "question": pl.String, "answer": pl.String, "correction": pl.String}
)
# Of the whole dataset: the first conversation that this one nearly copies, and the usual lengths of each field; of the
# store: the winner of a turn that the audit has judged.
CONTEXT_SCHEMA = pl.Schema(
    {
        "near_duplicate_of": pl.Int64,
        "winner": pl.String,
        **{f"{field}_{end}": pl.Float64 for field in Turn._fields for end in ("least", "most")},
    }
)
ALL_FIELDS = Turn._fields
WHOLE_TURN = ("",)  # a flag of the turn as a whole
MAX_PAIRS = 10_000  # pairs of turns of one conversation that are compared at once
_SENTENCE_ENDS = ".\n\u3002\uff01\uff1f"  # also those of Chinese
MIN_CLAUSE_CHARACTERS = 24  # characters; shorter clauses of a prompt ("Do not mention this") may be in any text


class Flag(NamedTuple):
    """A flag: its meaning in one line, the fields it looks at, and its function."""

    meaning: str
    fields: tuple[str, ...]
    find: Callable[[pl.DataFrame, str], pl.Series]


def turns_frame(conversations: Iterable[Conversation]) -> pl.DataFrame:
    """Return finished conversations as one row per turn (schema TURNS_SCHEMA), in order."""
    rows = [(one.number, number, *turn) for one in conversations for number, turn in enumerate(one.turns, start=1)]
    return pl.DataFrame(rows, schema=TURNS_SCHEMA, orient="row")


def find_flag(name: str, turns: pl.DataFrame, field: str, instructions: Sequence[str] = ()) -> pl.Series:
    """Return which turns have a flag in a field. `instructions` are those of the run's configuration."""
    if name == leaked_instruction.__name__:
        return leaked_instruction(turns, field, instructions)
    return FLAGS[name].find(turns, field)


def labels_by_turn(turns: pl.DataFrame, instructions: Sequence[str] = ()) -> list[list[str]]:
    """Return the labels of every turn, in row order: "name", or "name:field" if a flag has several fields.

    `instructions` are those of the run's configuration.
    """
    found: list[list[str]] = [[] for _ in range(turns.height)]
    for label, (name, field) in LABELS.items():
        for row in find_flag(name, turns, field, instructions).arg_true():
            found[row].append(label)
    return found


def labels_for(name: str) -> tuple[str, ...]:
    """Return the labels meant by `name`: a flag in all its fields, or one label; () if there is no such flag."""
    if name in LABELS:
        return (name,)
    return tuple(label for label, (flag, _) in LABELS.items() if flag == name)


# ---------------------------------------------------------------- the correction beside the answer


def correction_equals_answer(turns: pl.DataFrame, field: str) -> pl.Series:
    """The correction equals the answer, character for character: true of 13.5 % of aligner-20K."""
    return turns[field] == turns["answer"]


def correction_nearly_answer(turns: pl.DataFrame, field: str) -> pl.Series:
    """The correction differs from the answer, but in less than 5 % of its characters."""
    return _series(map(nearly_equal, turns["answer"], turns[field]))


def correction_not_better(turns: pl.DataFrame, _: str) -> pl.Series:
    """The turn was judged, and the correction did not win in both orders."""
    return _has_winner(turns, Winner.ANSWER, Winner.TIE, Winner.INCONSISTENT)


def answer_not_worse(turns: pl.DataFrame, _: str) -> pl.Series:
    """The turn was judged, and in both orders the answer won or neither reply did."""
    return _has_winner(turns, Winner.ANSWER, Winner.TIE)


# ---------------------------------------------------------------- the question


def question_repeats(turns: pl.DataFrame, field: str) -> pl.Series:
    """The question repeats an earlier one of the same conversation, in the same words or nearly so."""
    return _series(
        any(same_question(question, before) for before in questions[:at])
        for questions in _by_conversation(turns, field, normalized_words)
        for at, question in enumerate(questions)
    )


def question_asks_nothing(turns: pl.DataFrame, field: str) -> pl.Series:
    """The question has no question mark, no interrogative and no request. Seeds (round 1) may be statements."""
    return _is_model_written(turns) & ~turns[field].str.contains(patterns.ASKING)


def question_offers(turns: pl.DataFrame, field: str) -> pl.Series:
    """The question offers help, as the assistant would, instead of asking. Seeds (round 1) are not checked."""
    return _is_model_written(turns) & turns[field].str.contains(patterns.OFFER)


# ---------------------------------------------------------------- any text


def refusal(turns: pl.DataFrame, field: str) -> pl.Series:
    """The text begins like a refusal. That is right for a harmful question, and wrong for others."""
    return turns[field].str.slice(0, patterns.REFUSAL_CHARACTERS).str.contains(patterns.REFUSAL)


def language_drift(turns: pl.DataFrame, field: str) -> pl.Series:
    """Question or correction are in another writing system than the seed turn. Languages of one script look alike."""
    first = turns.filter(pl.col("round") == 1)
    seeds = dict(zip(first["number"], first["question"] + "\n" + first["correction"], strict=True))
    mixtures = {number: _seed_scripts(seed) for number, seed in seeds.items() if not seed.isascii()}

    def drifted(conversation: int, text: str) -> bool:
        if text.isascii() and conversation not in mixtures:
            return False  # both are Latin, or no text at all
        return drifts(text, mixtures.get(conversation) or scripts(seeds.get(conversation, "")))

    later = zip(turns["number"], turns["round"], turns[field], strict=True)
    return _series(number > 1 and drifted(conversation, text) for conversation, number, text in later)


_seed_scripts = lru_cache(1024)(scripts)  # each field of a conversation is compared with the same seed


def template_artefact(turns: pl.DataFrame, field: str) -> pl.Series:
    """The text has chat template markup, a role or label in front, or an introduction like "Here is the corrected
    answer".
    """
    return turns[field].str.contains(patterns.TEMPLATE)


def leaked_instruction(turns: pl.DataFrame, field: str, instructions: Sequence[str] = ()) -> pl.Series:
    """The text has a sentence of our own prompts, or of `instructions`, those of the run's configuration."""
    known = [*_built_in_clauses(), *_clauses("\n".join(instructions))]
    return turns[field].str.contains_any(known, ascii_case_insensitive=True)


def degenerate_repetition(turns: pl.DataFrame, field: str) -> pl.Series:
    """The text repeats itself: it compresses more than six times, or one eight-word run fills a quarter of it."""
    return _series(map(is_repetitive, turns[field]))


def length_outlier(turns: pl.DataFrame, field: str) -> pl.Series:
    """The text is much shorter or longer than usual in its round and field (3.5 robust deviations of the log)."""
    length = turns[field].str.len_chars()
    return ((length < turns[f"{field}_least"]) | (length > turns[f"{field}_most"])).fill_null(value=False)


def prompt_echo(turns: pl.DataFrame, field: str) -> pl.Series:
    """The text is, contains or quotes at length (120 bytes) what its writer was shown.

    The answer that a correction corrects does not count, nor do earlier questions for a question: other flags compare
    those.
    """
    found = set[int]()
    for some in _conversation_chunks(turns.with_row_index("row")):
        for row, text, source in _echo_candidates(some, field).iter_rows():
            if row not in found and echoes(text, source):
                found.add(row)
    return _series(row in found for row in range(turns.height))


def near_duplicate(turns: pl.DataFrame, _: str) -> pl.Series:
    """The conversation is nearly the same as an earlier one (MinHash, Jaccard of three-word runs >= 0.8)."""
    return turns["near_duplicate_of"].is_not_null()


# ---------------------------------------------------------------- helpers


def _series(values: Iterable[bool]) -> pl.Series:
    return pl.Series(list(values), dtype=pl.Boolean)


def _has_winner(turns: pl.DataFrame, *winners: Winner) -> pl.Series:
    """Return whether the audit found one of `winners`; false for a turn that was not judged."""
    return turns["winner"].is_in(list(map(str, winners))).fill_null(value=False)


def _is_model_written(turns: pl.DataFrame) -> pl.Series:
    """Return whether a model wrote the turn: round 1 is the seed."""
    return turns["round"] >= FIRST_ROUND


def _by_conversation(turns: pl.DataFrame, field: str, change: Callable[[str], str]) -> Iterator[list[str]]:
    """Return `field` grouped by conversation."""
    rows = zip(turns["number"], turns[field], strict=True)
    for _, texts in groupby(rows, key=lambda row: row[0]):
        yield [change(text) for _, text in texts]


def _conversation_chunks(turns: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield `turns` a few conversations at a time: pairs of texts grow with the square of the rounds."""
    begins = turns.select((pl.col("number") != pl.col("number").shift()).fill_null(value=True).arg_true()).to_series()
    longest = max(turns["round"], default=1)
    ends = [*begins[:: max(MAX_PAIRS // longest**2, 1)], turns.height]
    for start, end in pairwise(ends):
        yield turns.slice(start, end - start)


def _echo_candidates(turns: pl.DataFrame, field: str) -> pl.DataFrame:
    """Return (row, text, source) for each `field` text that may echo a source that its writer was shown.

    The `source` is short and is in `text`, or one of its blocks is. All that `echoes` finds is among them.
    """
    texts = turns.select("row", "number", "round", pl.col(field).cast(pl.Binary).alias("text"))
    shown = pl.concat(
        turns.select("number", pl.col("round").alias("shown") + later, pl.col(name).cast(pl.Binary).alias("source"))
        for name, later in _shown_fields(field).items()
    ).filter(pl.col("source").bin.size() >= ECHO_WHOLE_TEXT_BYTES)
    pairs = texts.join(shown, on="number", how="inner").filter(pl.col("shown") <= pl.col("round"))
    last = pl.col("source").bin.size().cast(pl.Int64) - ECHO_RUN_BYTES // 2
    blocks = pairs.with_columns(
        pl.int_ranges(0, pl.max_horizontal(last, 0) + 1, ECHO_RUN_BYTES // 2).alias("at")
    ).explode("at")
    found = blocks.filter(pl.col("text").bin.contains(pl.col("source").bin.slice(pl.col("at"), ECHO_RUN_BYTES // 2)))
    return found.unique(["row", "source"]).select("row", "text", "source")


def _shown_fields(field: str) -> Mapping[str, int]:
    """Return what the writer of `field` was shown and other flags do not compare: fields, and how many rounds later.

    The answer of the round before is compared too, although only `[history] shows = "everything"` shows it: a flag is
    the same under every setting.
    """
    if field == Stage.QUESTION:
        return {"answer": 1, "correction": 1}
    if field == Stage.ANSWER:
        return {"question": 0, "correction": 1}
    return {"question": 0, "answer": 1, "correction": 1}


@cache
def _built_in_clauses() -> list[str]:
    """Return sentences and clauses of the built-in system prompts that other texts would not have."""
    empty = Conversation(0, (Turn("-", "-", "-"),))
    said = " ".join(
        build_prompt(
            empty,
            stage,
            target_characters=0,
            history_messages=2,
            shows=shows,
            follow_up=stage is Stage.CORRECTION,
            own=own,
        ).system
        for stage in STAGES
        for shows in HistoryShows
        for own in ({}, dict.fromkeys(STAGES, "-."))  # what is put around a configuration's own instructions
    )
    return _clauses(said)


@lru_cache(16)
def _clauses(said: str) -> list[str]:
    """Return sentences and clauses of instructions that other texts would not have."""
    unmeasured = re.sub(r",? in about \d+ characters", ".", said)
    parts = [*re.split(f"[{_SENTENCE_ENDS}]", unmeasured), *re.split(f"[{_SENTENCE_ENDS}:;\uff1a\uff1b]", unmeasured)]
    return sorted({found for part in parts if _width(found := part.strip(" ,:\uff0c")) >= MIN_CLAUSE_CHARACTERS})


def _width(text: str) -> int:
    """Return the number of characters; one of Chinese, Japanese or Korean says as much as two others."""
    return sum(1 + (east_asian_width(character) in "WF") for character in text)


def _flag(find: Callable[[pl.DataFrame, str], pl.Series], meaning: str, *fields: str) -> tuple[str, Flag]:
    """Build a flag with its name. A flag that `retry_flags` can name looks at the stages that the settings list."""
    name = find.__name__
    asked_again = (stage.value for stage in STAGES if name in RETRY_FLAGS[stage])
    return name, Flag(meaning, fields or tuple(asked_again), find)


FLAGS: Mapping[str, Flag] = dict(
    [
        _flag(correction_equals_answer, "the correction is the answer unchanged"),
        _flag(correction_nearly_answer, "the correction differs from the answer in less than 5 % of its characters"),
        _flag(correction_not_better, "judged: the correction did not win in both orders", Stage.CORRECTION),
        _flag(answer_not_worse, "judged: the answer is at least as good as the correction", Stage.ANSWER),
        _flag(question_repeats, "the question was asked before in this conversation"),
        _flag(question_asks_nothing, "the question neither asks nor requests"),
        _flag(question_offers, "the question offers help, as an assistant does"),
        _flag(refusal, "the text begins like a refusal"),
        _flag(language_drift, "the text is in another writing system than the seed"),
        _flag(template_artefact, "chat markup, a role, a label or a wrapper was left in the text"),
        _flag(leaked_instruction, "the text holds a sentence of the prompts"),
        _flag(degenerate_repetition, "the text repeats itself over and over"),
        _flag(length_outlier, "far shorter or longer than usual for its round and field", *ALL_FIELDS),
        _flag(prompt_echo, "the text is or quotes at length what its writer was shown"),
        _flag(near_duplicate, "the conversation nearly copies an earlier one", *WHOLE_TURN),
    ]
)
# Flags that come from the audit. It judges a sample, so that a turn without them need not be better than one with them.
JUDGED_FLAGS = frozenset({correction_not_better.__name__, answer_not_worse.__name__})
LABELS: Mapping[str, tuple[str, str]] = {
    f"{name}:{field}" if len(flag.fields) > 1 else name: (name, field)
    for name, flag in FLAGS.items()
    for field in flag.fields
}
