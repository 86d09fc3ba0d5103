"""What 200 conversations cost, counted with real tokenizers on the same texts for every model and every setting.

Every request of rounds 2 and 3 is built as `submit` builds it, from finished conversations: those of a real run when a
history file is given or found beside the repository, else the shipped examples repeated as later rounds. Inputs are the
texts of each request, outputs the texts of each reply (in JSON where JSON is asked for). Chat templates, which each
provider adds by itself, are not counted.

    python benchmarks/cost.py [--history round3_history.jsonl] [--gpu-usd-per-hour 1] [--gpu-tokens-per-second 1000]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import orjson
import splintr

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.core.dialogue import ECHO_FIELD, FIRST_ROUND, STAGES, Conversation, Stage, Step, Turn, echo_of, steps
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import batch_rate, standard_rate
from batchgen.core.prompts import Prompt
from batchgen.core.tokens import TokenFormula, estimate_prompt_tokens
from batchgen.dataset.seeds import SeedReport, read_seeds
from batchgen.engine.session import Session
from batchgen.engine.submission.expected_length import asks_follow_up
from batchgen.engine.submission.request_files import prompt_builder
from batchgen.ledger.store import Store
from batchgen.providers import PROVIDERS
from batchgen.reports.estimate import comes_with_correction
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import load_settings

HISTORY = REPOSITORY.parent / "shared" / "data" / "aligner20k" / "round3_history.jsonl"
# Gemini writes questions and corrections. The answers of every model are counted with Llama's tokenizer.
TOKENIZERS = {
    Stage.QUESTION: splintr.Tokenizer.from_pretrained("gemma3"),
    Stage.ANSWER: splintr.Tokenizer.from_pretrained("llama3.1"),
    Stage.CORRECTION: splintr.Tokenizer.from_pretrained("gemma3"),
}
FORMULAS: Mapping[Stage, TokenFormula] = {
    stage: PROVIDERS["together" if stage is Stage.ANSWER else "gemini"].tokens for stage in STAGES
}
# An online pipeline of the same design over the same 200 conversations, at list price.
BASELINE = {
    Stage.QUESTION: Usage(),
    Stage.ANSWER: Usage(input=163_624, output=49_273),
    Stage.CORRECTION: Usage(input=474_487, output=40_477),  # and questions: the same model writes both
}

# A column of the tables: its heading, and the settings as a user writes them into batchgen.toml. What a new setting
# saves is shown by a line here; nothing else needs to change.
VARIANTS: Mapping[str, str] = {
    "default": "",
    "ask_next": "correction.ask_next = true",
    "shows everything": 'history.shows = "everything"',
    "shows everything, ask_next": 'history.shows = "everything"\ncorrection.ask_next = true',
}
TARGET_VARIANTS = ("default", "ask_next")
TARGETS = (400, 300, 200)  # characters of answers and corrections; the texts at hand were written for the first


class Model(NamedTuple):
    provider: str
    name: str

    def usd(self, used: Usage, *, batch: bool) -> float:
        rate = batch_rate(*self, {}) if batch else standard_rate(*self)
        assert rate is not None, self
        return rate.usd(used)


class OwnGpu(NamedTuple):
    """A GPU of one's own: it is paid by the hour, and output decides how long it takes."""

    usd_per_hour: float
    tokens_per_second: float

    def usd(self, used: Usage, *, batch: bool) -> float:  # noqa: ARG002 - the same hours either way
        return used.output / self.tokens_per_second / 3600 * self.usd_per_hour


GEMINI = tuple(Model("gemini", f"gemini-{version}-flash-lite") for version in ("2.5", "3.1", "3.5"))
LLAMA_8B = Model("deepinfra", "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo")
ANSWERS: Mapping[str, Model] = {
    "DeepInfra, Llama 3.1 8B": LLAMA_8B,
    "Together, Qwen3.5-9B": Model("together", "Qwen/Qwen3.5-9B"),
    "Together, Llama 3.3 70B": Model("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo"),
}

# ---------------------------------------------------------------- requests and replies


def read_conversations(path: Path) -> list[Conversation]:
    if path.exists():
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        return [Conversation(n, tuple(Turn(**turn) for turn in row["rounds"])) for n, row in enumerate(rows, start=1)]
    seeds = read_seeds(REPOSITORY / "batchgen" / "examples.jsonl", SeedReport())
    return [Conversation(n, (Turn(*seed),) * 3) for n, seed in enumerate(seeds, start=1)]


def exchanges(conversation: Conversation, *, ask_next: bool, echo: bool = False) -> Iterator[tuple[Step, Prompt, str]]:
    """Every request of a finished conversation, with the reply it got."""
    settings = Settings()
    rounds = len(conversation.turns)
    for step in steps(rounds):
        along = ask_next and step.stage is Stage.CORRECTION and step.round < rounds
        if ask_next and step.stage is Stage.QUESTION and step.round > FIRST_ROUND:
            continue  # it came along with the correction before it
        done, current = conversation.turns[: step.round - 1], conversation.turns[step.round - 1]
        written = STAGES.index(step.stage)
        shown = (*done, Turn(*list(current)[:written])) if written else done
        asked = build_prompt(
            Conversation(conversation.number, shown),
            step.stage,
            target_characters=settings.stage(step.stage).target_characters,
            history_messages=settings.history_messages,
            follow_up=along,
        )
        replies = [current[written], conversation.turns[step.round].question] if along else [current[written]]
        fields = reply_fields(step.stage, follow_up=along)
        values = dict(zip(fields, replies, strict=True)) if fields else {}
        if echo and fields:
            values = {ECHO_FIELD: echo_of(conversation.number), **values}
        yield step, asked, orjson.dumps(values).decode() if values else replies[0]


def exchanges(session: Session, conversations: Iterable[Conversation]) -> Iterator[tuple[Step, Prompt, str]]:
    """Yield every request of finished conversations, with the reply it got."""
    steps = [step for step in session.steps() if not comes_with_correction(session, step)]
    builders = {step: prompt_builder(session, step) for step in steps}
    for conversation in conversations:
        for step, ask in builders.items():
            done, current = conversation.turns[: step.round - 1], conversation.turns[step.round - 1]
            written = STAGES.index(step.stage)
            shown = (*done, Turn(*list(current)[:written])) if written else done
            replies = [current[written]]
            if asks_follow_up(session, step):
                replies.append(conversation.turns[step.round].question)
            asked = ask(Conversation(conversation.number, shown))
            yield step, asked, reply_text(asked, replies)


def echo_tokens(found: list[Conversation]) -> tuple[int, int]:
    """Tokens that the echo adds to all replies, and the tokens of its part of all schemas, as JSON."""
    added = schemas = 0
    for conversation in found:
        plain, echoing = (exchanges(conversation, ask_next=False, echo=echo) for echo in (False, True))
        fixed = {ECHO_FIELD: {"type": "STRING", "enum": [echo_of(conversation.number)]}}
        schema = orjson.dumps(
            {"properties": fixed, "required": [ECHO_FIELD], "propertyOrdering": [ECHO_FIELD]}
        ).decode()
        for (step, asked, reply), (_, _, longer) in zip(plain, echoing, strict=True):
            if asked.fields:
                provider = Settings().stage(step.stage).provider
                added += count(provider, longer) - count(provider, reply)
                schemas += count(provider, schema)
    return added, schemas


def measure(found: list[Conversation], *, ask_next: bool) -> tuple[dict[Step, Usage], Counter[str]]:
    """Tokens by step, and the estimate's input tokens by provider beside them."""
    settings = Settings()
    totals: dict[Step, Usage] = {}
    estimated: Counter[str] = Counter()
    for conversation in found:
        for step, asked, reply in exchanges(conversation, ask_next=ask_next):
            provider = settings.stage(step.stage).provider
            texts = [asked.system, *(message.text for message in asked.messages)]
            before, used = totals[step.stage], sum(len(encode(text)) for text in texts)
            totals[step.stage] = Usage(input=before.input + used, output=before.output + len(encode(reply)))
            # Without the allowance for chat templates, which are not counted here either.
            empty = estimate_prompt_tokens(Prompt("", (), ()), FORMULAS[step.stage])
            estimated[step.stage] += estimate_prompt_tokens(asked, FORMULAS[step.stage]) - empty
    return totals, estimated


def shortened(conversations: Iterable[Conversation], share: float) -> list[Conversation]:
    """Cut the answers and corrections behind round 1 to a share of their characters."""
    return [
        Conversation(
            conversation.number,
            (
                conversation.turns[0],
                *(
                    Turn(turn.question, _cut(turn.answer, share), _cut(turn.correction, share))
                    for turn in conversation.turns[1:]
                ),
            ),
        )
        for conversation in conversations
    ]


def _cut(text: str, share: float) -> str:
    return text[: max(round(len(text) * share), 1)]


# ---------------------------------------------------------------- tables


def usd(totals: Mapping[Stage, Usage], gemini: Model, answers: Model | OwnGpu, *, batch: bool) -> float:
    return sum((answers if stage is Stage.ANSWER else gemini).usd(used, batch=batch) for stage, used in totals.items())


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a Markdown table whose first columns are text and whose columns of numbers are aligned to the right."""
    rows = list(rows)
    marks = ["---:" if all(row[at][:1] in "$+-0123456789" for row in rows) else "---" for at in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, marks, *rows])


def print_tokens(measured: Mapping[str, tuple[dict[Stage, Usage], dict[Stage, int]]]) -> None:
    rows = []
    for name, (totals, estimated) in measured.items():
        cells = [f"{amount:,}" for used in totals.values() for amount in (used.input, used.output)]
        error = sum(estimated.values()) / sum(used.input for used in totals.values()) - 1
        rows.append([name, *cells, f"{error:+.1%}"])
    heads = [f"{stage}s {kind}" for stage in STAGES for kind in ("in", "out")]
    print(table(["settings", *heads, "estimate's error"], rows))


def print_costs(measured: Mapping[str, dict[Stage, Usage]], gpu: OwnGpu) -> None:
    rows = []
    ways: dict[str, Model | OwnGpu] = {**ANSWERS, "own GPU": gpu}
    for gemini in GEMINI:
        for name, answers in ways.items():
            online = usd(BASELINE, gemini, answers, batch=False)
            ours = [usd(totals, gemini, answers, batch=True) for totals in measured.values()]
            rows.append([gemini.name, name, f"${online:.4f}", *(f"${one:.4f} ({one / online:.0%})" for one in ours)])
    print(table(["questions, corrections", "answers", "online baseline", *measured], rows))


def print_targets(conversations: Sequence[Conversation]) -> None:
    rows = []
    for target in TARGETS:
        texts = shortened(conversations, target / TARGETS[0])
        lengths = f"answer.target_characters = {target}\ncorrection.target_characters = {target}\n"
        for name in TARGET_VARIANTS:
            totals, _ = measure(texts, f"{lengths}{VARIANTS[name]}")
            rows.append(
                [f"{target}", name, *(f"${usd(totals, gemini, LLAMA_8B, batch=True):.4f}" for gemini in GEMINI)]
            )
    print(table(["target_characters", "settings", *(gemini.name for gemini in GEMINI)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=Path, default=HISTORY)
    found = conversations(parser.parse_args().history)
    sums = {}
    for mode in (False, True):
        totals, estimated = measure(found, ask_next=mode)
        print(f"\n{len(found)} conversations, rounds 2 and 3, ask_next = {str(mode).lower()}\n")
        print("| step | tokens in | tokens out |\n| --- | ---: | ---: |")
        for step, used in sorted(totals.items(), key=lambda item: item[0].position):
            print(f"| {step} | {used.input:,} | {used.output:,} |")
        sums[mode] = by_provider(totals)
        for name, used in sums[mode].items():
            error = estimated[name] / used.input - 1
            print(f"| **{name}** (the estimate of its input: {error:+.1%}) | {used.input:,} | {used.output:,} |")
    added, schemas = echo_tokens(found)
    requests = sum(bool(asked.fields) for one in found for _, asked, _ in exchanges(one, ask_next=False))
    price = batch_rate(GEMINI, {})
    usds = [price.usd(Usage(output=added)), price.usd(Usage(input=schemas))] if price else []
    print(f"\necho, ask_next = false: {requests:,} requests to Gemini; {added:,} tokens more out (${usds[0]:.4f});")
    print(f"at most {schemas:,} more in (${usds[1]:.4f}), if schemas are billed")
    print("\n| answers by | online baseline | ours | ours, ask_next |\n| --- | ---: | ---: | ---: |")
    for model in CHOICES:
        online = usd(BASELINE, model, batch=False)
        ours = [usd(sums[mode], model, batch=True) for mode in (False, True)]
        cells = [f"${ours[0]:.4f} ({ours[0] / online:.0%})", f"${ours[1]:.4f} ({ours[1] / online:.0%})"]
        print(f"| {model} | ${online:.4f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
