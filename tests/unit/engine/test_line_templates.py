"""Compare request lines made from a template with the lines of the codecs: equal bytes and equal token counts."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.dialogue import (
    STAGES,
    Conversation,
    HistoryShows,
    Stage,
    Step,
    Turn,
    echo_of,
    group_into_turns,
    key_format,
    request_key,
)
from batchgen.core.prompts import Prompt, build_prompt
from batchgen.core.text_features import TextFeatures, count_features
from batchgen.core.tokens import estimate_prompt_tokens, estimate_request_tokens
from batchgen.engine.session import Session
from batchgen.engine.submission import request_files
from batchgen.engine.submission.expected_length import ECHO_TOKENS
from batchgen.engine.submission.line_templates import make_request_template, render_requests
from batchgen.ledger.store import Store
from batchgen.providers.base import Parameters, Provider
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import BatchSettings, HistorySettings, ProviderSettings, Settings
from tests.support.provider_facts import ROWS

AWKWARD = [
    'ends with a quote and a comma",',
    "ends with a backslash\\",
    '",\n  "',
    "\n",
    ",\\n  ",
    "batchgen-mark-0-",
    "batchgen-mark-key-",
    "batchgen-mark-echo-",
    "a\u2028b\u2029c\x85d",
    "na\u00efve caf\u00e9",
    "多少钱，三个。",
    "%d %s",
]
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(AWKWARD)
STEPS = [Step(number, stage) for number in (2, 3, 4) for stage in STAGES]


def asked(texts: list[str], stage: Stage, history: int, shows: HistoryShows, *, follow_up: bool) -> Prompt:
    conversation = Conversation(0, tuple(group_into_turns(texts)))
    return build_prompt(
        conversation, stage, target_characters=400, history_messages=history, shows=shows, follow_up=follow_up
    )


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@settings(max_examples=50)
@given(step=st.sampled_from(STEPS), data=st.data())
def test_bulk_lines_are_the_codec_s(row: Provider, step: Step, data: st.DataObject) -> None:
    dialogues = data.draw(
        st.lists(st.lists(TEXTS, min_size=step.position, max_size=step.position), min_size=1, max_size=4)
    )
    history, along = data.draw(st.integers(2, 8)), step.stage is Stage.CORRECTION and data.draw(st.booleans())
    shows = data.draw(st.sampled_from(HistoryShows))
    parameters = Parameters("gemini-2.5-flash-lite", 128, 1.0)
    keys = [f"r1-{number:06d}.k" for number in range(len(dialogues))]
    echoes = [echo_of(number) for number in range(len(dialogues))] if data.draw(st.booleans()) else []

    def ask(texts: list[str], echo: str = "xx") -> Prompt:
        return asked(texts, step.stage, history, shows, follow_up=along)._replace(echo=echo if echoes else "")

    lined = make_request_template(
        step.position, lambda texts: ask(list(texts)), lambda key, said: row.line(key, said, parameters)
    )
    shown = [
        text for texts in dialogues for text in texts[lined.line_template.shown.start : lined.line_template.shown.stop]
    ]
    body, said = render_requests(lined, [key.encode() for key in keys], shown, [echo.encode() for echo in echoes])
    prompts = [ask(texts, echo) for texts, echo in zip_longest(dialogues, echoes, fillvalue="")]  # type: ignore[arg-type]
    assert body == b"".join(row.line(key, one, parameters) + b"\n" for key, one in zip(keys, prompts, strict=True))
    formula = row.tokens
    total = estimate_request_tokens(lined.system, said, len(dialogues), formula)
    one_by_one = sum(estimate_prompt_tokens(one, formula) for one in prompts)
    assert abs(total - one_by_one) <= 0.5 * (len(dialogues) + 1)  # each prompt is rounded


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_features_of_joined_texts_are_the_sums_of_theirs(texts: list[str]) -> None:
    total = TextFeatures()
    for text in texts:
        total = total.plus(count_features(text))
    assert count_features(" ".join(texts)) == total


def test_a_key_from_its_format() -> None:
    step = Step(3, Stage.ANSWER)
    assert (key_format(step, 2, "beef", 7) % 42).decode() == request_key("r1-0000042", step, 2, "beef")


def session(root: Path, seeds: list[Turn], configured: Settings) -> Session:
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    store = Store.open(layout.store)
    store.replace_seeds(seeds, {"run": "beef", "prepared": ""})
    return Session(layout, configured, store, {})


SEEDS = [Turn(f"Question {number}? " + "why " * number, "An answer.", "A correction.") for number in range(1, 9)]
FIRST = Step(2, Stage.QUESTION)


@pytest.mark.parametrize("shows", HistoryShows)
def test_a_file_made_in_bulk_has_the_lines_of_the_codec(shows: HistoryShows, tmp_path: Path) -> None:
    run = session(tmp_path, SEEDS, Settings(history=HistorySettings(shows)))
    shard = request_files.draft_batch(run, FIRST, 0)
    assert shard is not None
    lines = list(request_files.encode_requests(run, FIRST, run.store.ready(FIRST, 0, after=0, limit=8), 1))
    assert shard.body == b"".join(line.line for line in lines)
    assert (b"An answer." in shard.body) is (shows is HistoryShows.EVERYTHING)


@pytest.mark.parametrize("limit", ["bytes", "tokens", "none"])
def test_a_file_is_cut_at_the_same_request_as_line_by_line(limit: str, tmp_path: Path) -> None:
    whole = session(tmp_path / "whole", SEEDS, Settings())
    lines = list(request_files.encode_requests(whole, FIRST, whole.store.ready(FIRST, 0, after=0, limit=8), 1))
    size, tokens = sum(len(line.line) for line in lines[:5]), sum(line.input_tokens for line in lines[:5])
    configured = {
        "bytes": Settings(batches=BatchSettings(max_bytes=size)),
        "tokens": Settings(gemini=ProviderSettings(models=("m",), enqueued_tokens=tokens)),
        "none": Settings(),
    }[limit]
    shard = request_files.draft_batch(session(tmp_path / "cut", SEEDS, configured), FIRST, 0)
    assert shard is not None
    assert [row.number for row in shard.rows] == list(range(1, 9 if limit == "none" else 6))
    if limit != "tokens":  # that case uses another model, whose name is in the lines
        assert shard.body == b"".join(line.line for line in lines[: len(shard.rows)])


@pytest.mark.parametrize("shows", HistoryShows)
def test_an_empty_text_is_asked_about_all_the_same(shows: HistoryShows, tmp_path: Path) -> None:
    """An empty text is left out of the prompt, so its line has another form."""
    configured = Settings(history=HistorySettings(shows))
    run = session(tmp_path, [Turn("q", "", "c"), Turn("q2", "a2", "c2")], configured)
    shard = request_files.draft_batch(run, FIRST, 0)
    assert shard is not None
    rows = run.store.ready(FIRST, 0, after=0, limit=2)
    assert shard.body == b"".join(line.line for line in request_files.encode_requests(run, FIRST, rows, 1))
    assert shard.body.count(b"\n") == 2


def test_raised_ceilings_stand_in_their_own_lines(tmp_path: Path) -> None:
    run = session(tmp_path, SEEDS, Settings())
    run.store._connection.execute("UPDATE conversations SET token_doublings = number % 3")
    shard = request_files.draft_batch(run, FIRST, 0)
    assert shard is not None
    lines = list(request_files.encode_requests(run, FIRST, run.store.ready(FIRST, 0, after=0, limit=8), 1))
    assert shard.body == b"".join(line.line for line in lines)
    assert shard.output_ceiling == sum((128 + ECHO_TOKENS) << (number % 3) for number in range(1, 9))
