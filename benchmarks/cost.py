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

from batchgen.core.dialogue import ECHO_FIELD, FIRST_ROUND, STAGES, Conversation, Stage, Step, Turn, echo_of, steps
from batchgen.core.outcomes import Usage
from batchgen.core.pricing import batch_rate, standard_rate
from batchgen.core.prompts import Prompt, build_prompt, reply_fields
from batchgen.core.tokens import estimate_text_tokens
from batchgen.dataset.seeds import SeedReport, read_seeds
from batchgen.providers import PROVIDERS
from batchgen.runtime.settings import Settings

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


def count(provider: str, text: str) -> int:
    return len(TOKENIZERS[provider].encode_ordinary(text))


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
            used = sum(count(provider, text) for text in texts)
            before = totals.get(step, Usage())
            totals[step] = Usage(input=before.input + used, output=before.output + count(provider, reply))
            estimated[provider] += round(sum(estimate_text_tokens(text, PROVIDERS[provider].tokens) for text in texts))
    return totals, estimated


def by_provider(totals: dict[Step, Usage]) -> dict[str, Usage]:
    settings = Settings()
    sums: dict[str, Usage] = {name: Usage() for name in TOKENIZERS}
    for step, used in totals.items():
        provider = settings.stage(step.stage).provider
        before = sums[provider]
        sums[provider] = Usage(input=before.input + used.input, output=before.output + used.output)
    return sums


def usd(parts: dict[str, Usage], model: str, *, batch: bool) -> float:
    price = (lambda name: batch_rate(name, {})) if batch else standard_rate
    found = [(price(GEMINI), parts["gemini"]), (price(model), parts["together"])]
    return sum(one.usd(used) for one, used in found if one)


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
