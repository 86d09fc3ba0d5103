"""What 200 conversations cost, counted with the real tokenizers on the same texts for every variant.

Every request of rounds 2 and 3 is built as `submit` would build it, from finished conversations: those of a real run
when a history file is given or found beside the repository, else the shipped examples repeated as later rounds. Inputs
are the texts of each request, outputs the texts of each reply (in JSON where JSON is asked for); chat templates, which
each provider adds by itself, are not counted.

    python benchmarks/cost.py [--history round3_history.jsonl]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import splintr

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from batchgen.costs import FORMULAS, rate, standard_rate, tokens  # noqa: E402 - the repository is found first
from batchgen.dialogue import STAGES, Conversation, Stage, Step, Turn, steps  # noqa: E402
from batchgen.outcomes import Usage  # noqa: E402
from batchgen.prompts import Prompt, fields_of, prompt  # noqa: E402
from batchgen.seeds import SeedReport, read_seeds  # noqa: E402
from batchgen.settings import Settings  # noqa: E402

HISTORY = REPOSITORY.parent / "shared" / "data" / "aligner20k" / "round3_history.jsonl"
TOKENIZERS = {
    "gemini": splintr.Tokenizer.from_pretrained("gemma3"),
    "together": splintr.Tokenizer.from_pretrained("llama3.1"),
}
# An online pipeline of the same design over the same 200 conversations, at list price.
BASELINE = {"gemini": Usage(input=474_487, output=40_477), "together": Usage(input=163_624, output=49_273)}
GEMINI = "gemini-2.5-flash-lite"
CHOICES = ("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B", "meta-llama/Llama-3.3-70B-Instruct-Turbo")


def conversations(path: Path) -> list[Conversation]:
    if path.exists():
        rows = [orjson.loads(line) for line in path.read_bytes().splitlines()]
        return [Conversation(n, tuple(Turn(**turn) for turn in row["rounds"])) for n, row in enumerate(rows, start=1)]
    seeds = read_seeds(REPOSITORY / "batchgen" / "examples.jsonl", SeedReport())
    return [Conversation(n, (Turn(*seed),) * 3) for n, seed in enumerate(seeds, start=1)]


def exchanges(conversation: Conversation) -> Iterator[tuple[Step, Prompt, str]]:
    """Every request of a finished conversation, with the reply it got."""
    settings = Settings()
    for step in steps(len(conversation.turns)):
        done = conversation.turns[: step.round - 1]
        current = conversation.turns[step.round - 1]
        written = STAGES.index(step.stage)
        texts = list(current)[:written]
        shown = (*done, Turn(*texts)) if texts else done
        asked = prompt(
            Conversation(conversation.number, shown),
            step.stage,
            target_characters=settings.stage(step.stage).target_characters,
            history_messages=settings.history_messages,
        )
        yield step, asked, current[written]


def reply_text(stage: Stage, text: str) -> str:
    fields = fields_of(stage)
    return orjson.dumps({fields[0]: text}).decode() if fields else text


def count(provider: str, text: str) -> int:
    return len(TOKENIZERS[provider].encode_ordinary(text))


def measure(found: list[Conversation]) -> tuple[dict[Step, Usage], Counter[str]]:
    """Tokens by step, and the estimate's totals by provider beside them."""
    settings = Settings()
    totals: dict[Step, Usage] = {}
    estimated: Counter[str] = Counter()
    for conversation in found:
        for step, asked, reply in exchanges(conversation):
            provider = settings.stage(step.stage).provider
            texts = [asked.system, *(message.text for message in asked.messages)]
            used = sum(count(provider, text) for text in texts)
            written = count(provider, reply_text(step.stage, reply))
            before = totals.get(step, Usage())
            totals[step] = Usage(input=before.input + used, output=before.output + written)
            estimated[provider] += round(sum(tokens(text, FORMULAS[provider]) for text in texts))
    return totals, estimated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=Path, default=HISTORY)
    found = conversations(parser.parse_args().history)
    totals, estimated = measure(found)
    settings = Settings()
    sums: dict[str, Usage] = {name: Usage() for name in TOKENIZERS}
    print(f"{len(found)} conversations, rounds 2 and 3\n\n{'step':<20}{'tokens in':>12}{'tokens out':>12}")
    for step, used in sorted(totals.items(), key=lambda item: item[0].position):
        print(f"{step!s:<20}{used.input:>12,}{used.output:>12,}")
        provider = settings.stage(step.stage).provider
        before = sums[provider]
        sums[provider] = Usage(input=before.input + used.input, output=before.output + used.output)
    print()
    for name, used in sums.items():
        error = estimated[name] / used.input - 1
        print(f"{name:<10} {used.input:>9,} in {used.output:>9,} out; the estimate of the input is {error:+.1%} off")
    print()
    for model in CHOICES:
        ours = [(rate(GEMINI, {}), sums["gemini"]), (rate(model, {}), sums["together"])]
        listed = [(standard_rate(GEMINI), BASELINE["gemini"]), (standard_rate(model), BASELINE["together"])]
        batch, online = (sum(price.usd(used) for price, used in parts if price) for parts in (ours, listed))
        print(f"{GEMINI} + {model}: ours ${batch:.4f}, online baseline ${online:.4f}, {batch / online:.0%}")


if __name__ == "__main__":
    main()
