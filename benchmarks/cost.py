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
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import NamedTuple

import orjson
import splintr

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.core.dialogue import ECHO_FIELD, STAGES, Conversation, Stage, Step, Turn
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
from batchgen.providers.base import Parameters
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

# A row of the tables of settings: its heading, and the settings as a user writes them into batchgen.toml. What a new
# setting costs or saves is shown by a line here; nothing else needs to change.
VARIANTS: Mapping[str, str] = {
    "default": "",
    "ask_next": "correction.ask_next = true",
    "echo = false": "batches.echo = false",
    "echo = false, ask_next": "batches.echo = false\ncorrection.ask_next = true",
    "shows everything": 'history.shows = "everything"',
    "shows everything, ask_next": 'history.shows = "everything"\ncorrection.ask_next = true',
}
MAIN_VARIANTS = ("default", "ask_next")  # of the tables with many rows
TARGETS = (400, 300, 200)  # characters of answers and corrections; the texts at hand were written for the first


class RequestSize(NamedTuple):
    """A request of `step`: who gets it, its input tokens as `submit` estimates them, and the bytes of its line."""

    step: Step
    provider: str
    tokens: float
    bytes: float


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


@contextmanager
def configured(toml: str) -> Iterator[Session]:
    """Open a session with these settings. Its store stays empty: only settings are asked for."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "batchgen.toml").write_text(toml, "utf-8")
        layout = Layout(root)
        layout.store.parent.mkdir(parents=True, exist_ok=True)
        with Session(layout, load_settings(root), Store.open(layout.store), {}) as session:
            yield session


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


def reply_text(asked: Prompt, replies: Sequence[str]) -> str:
    """Return a reply as the model writes it: the JSON that the prompt asks for, or plain text."""
    if not asked.fields:
        return replies[0]
    echo = {ECHO_FIELD: asked.echo} if asked.echo else {}
    return orjson.dumps({**echo, **dict(zip(asked.fields, replies, strict=True))}).decode()


def measure(conversations: Iterable[Conversation], toml: str) -> tuple[dict[Stage, Usage], dict[Stage, int]]:
    """Return the tokens of each stage, and the estimate of its input tokens."""
    totals = dict.fromkeys(STAGES, Usage())
    estimated = dict.fromkeys(STAGES, 0)
    with configured(toml) as session:
        for step, asked, reply in exchanges(session, conversations):
            encode = TOKENIZERS[step.stage].encode_ordinary
            texts = [asked.system, *(message.text for message in asked.messages)]
            before, used = totals[step.stage], sum(len(encode(text)) for text in texts)
            totals[step.stage] = Usage(input=before.input + used, output=before.output + len(encode(reply)))
            # Without the allowance for chat templates, which are not counted here either.
            empty = estimate_prompt_tokens(Prompt("", (), ()), FORMULAS[step.stage])
            estimated[step.stage] += estimate_prompt_tokens(asked, FORMULAS[step.stage]) - empty
    return totals, estimated


def request_sizes(conversations: Iterable[Conversation], toml: str) -> list[RequestSize]:
    """Return the mean size of a request of each step."""
    sizes: dict[Step, list[tuple[int, int]]] = {}
    with configured(toml) as session:
        for step, asked, _ in exchanges(session, conversations):
            provider, limits = session.provider(step.stage), session.settings.stage(step.stage)
            names = session.names()
            parameters = Parameters(session.model(step.stage), limits.max_output_tokens, limits.temperature)
            line = provider.line(names.key(1, step, 1), asked, parameters) + b"\n"
            sizes.setdefault(step, []).append((estimate_prompt_tokens(asked, provider.tokens), len(line)))
        return [
            RequestSize(step, session.provider(step.stage).name, *map(fmean, zip(*found, strict=True)))
            for step, found in sizes.items()
        ]


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


def print_settings(measured: Mapping[str, dict[Stage, Usage]]) -> None:
    rows = []
    for name, totals in measured.items():
        cells = []
        for gemini in GEMINI:
            online, ours = usd(BASELINE, gemini, LLAMA_8B, batch=False), usd(totals, gemini, LLAMA_8B, batch=True)
            cells.append(f"${ours:.4f} ({ours / online:.0%})")
        rows.append([name, *cells])
    print(table(["settings", *(gemini.name for gemini in GEMINI)], rows))


def print_costs(measured: Mapping[str, dict[Stage, Usage]], gpu: OwnGpu) -> None:
    rows = []
    ways: dict[str, Model | OwnGpu] = {**ANSWERS, "own GPU": gpu}
    for gemini in GEMINI:
        for name, answers in ways.items():
            online = usd(BASELINE, gemini, answers, batch=False)
            ours = [usd(measured[variant], gemini, answers, batch=True) for variant in MAIN_VARIANTS]
            rows.append([gemini.name, name, f"${online:.4f}", *(f"${one:.4f} ({one / online:.0%})" for one in ours)])
    print(table(["questions, corrections", "answers", "online baseline", *MAIN_VARIANTS], rows))


def print_targets(conversations: Sequence[Conversation]) -> None:
    rows = []
    for target in TARGETS:
        texts = shortened(conversations, target / TARGETS[0])
        lengths = f"answer.target_characters = {target}\ncorrection.target_characters = {target}\n"
        for name in MAIN_VARIANTS:
            totals, _ = measure(texts, f"{lengths}{VARIANTS[name]}")
            rows.append(
                [f"{target}", name, *(f"${usd(totals, gemini, LLAMA_8B, batch=True):.4f}" for gemini in GEMINI)]
            )
    print(table(["target_characters", "settings", *(gemini.name for gemini in GEMINI)], rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--gpu-usd-per-hour", type=float, default=1.0)
    parser.add_argument("--gpu-tokens-per-second", type=float, default=1000.0, help="Output tokens of the answers.")
    given = parser.parse_args()
    gpu = OwnGpu(given.gpu_usd_per_hour, given.gpu_tokens_per_second)
    conversations = read_conversations(given.history)
    measured = {name: measure(conversations, toml) for name, toml in VARIANTS.items()}
    print(f"Tokens of {len(conversations)} conversations, rounds 2 and 3\n")
    print_tokens(measured)
    usage = {name: totals for name, (totals, _) in measured.items()}
    print(f"\nCost, answers by {LLAMA_8B.provider}:{LLAMA_8B.name}, in batch and as a share of the online baseline\n")
    print_settings(usage)
    print(f"\nCost; the own GPU at ${gpu.usd_per_hour:g}/h and {gpu.tokens_per_second:g} output tokens/s\n")
    print_costs(usage, gpu)
    print(f"\nCost with shorter texts, answers by {LLAMA_8B.provider}:{LLAMA_8B.name}\n")
    print_targets(conversations)


if __name__ == "__main__":
    main()
