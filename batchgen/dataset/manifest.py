"""Keep the facts and the seeds of a run beside its requests, so that a lost store can be rebuilt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import sha256

import orjson
import zstandard

from batchgen.core.dialogue import STAGES, Stage, Turn
from batchgen.core.errors import InputError
from batchgen.dataset.hub.seed_terms import SEED_TERMS_FACT
from batchgen.ledger.run import Run
from batchgen.runtime.files import Layout, write_durably

FACTS = ("prepared", "source", "run", SEED_TERMS_FACT)
_INSTRUCTIONS = "instructions:"  # begins the name of a fact; then the stage and the first batch number follow


def write_manifest(run: Run, facts: Mapping[str, str]) -> None:
    """Write the facts and the seeds of a run beside its requests."""
    folder = run.layout.root / "requests"

    def lines() -> Iterator[bytes]:
        compressor = zstandard.ZstdCompressor().compressobj()
        for conversation in run.store.dialogues.all(len(Turn._fields)):
            yield compressor.compress(orjson.dumps(tuple(conversation.turns[0])) + b"\n")
        yield compressor.flush()

    write_durably(folder / "seeds.jsonl.zst", lines())
    write_durably(folder / "run.json", [orjson.dumps(dict(facts))])


def writer_fact(stage: Stage, batch_number: int) -> str:
    """Name the fact that says which model writes a stage from a batch number on."""
    return f"writer:{stage}:{batch_number:09d}"


def writer_at(facts: Mapping[str, str], stage: Stage, batch_number: int) -> str:
    """Return the model that wrote a batch, as PROVIDER:MODEL; "" if no fact says it."""
    names = sorted(name for name in facts if name.startswith(f"writer:{stage}:"))
    return next((facts[name] for name in reversed(names) if name <= writer_fact(stage, batch_number)), "")


def record_instructions(run: Run, batch_number: int) -> dict[Stage, str]:
    """Record the instructions with which each stage is asked from `batch_number` on. Returns those that have changed.

    "" stands for the built-in instructions.
    """
    own, before = run.settings.own_instructions(), instructions_at(known_facts(run.layout), batch_number)
    changed = {stage: own.get(stage, "") for stage in STAGES if own.get(stage, "") != before.get(stage, "")}
    if changed:
        add_facts(
            run.layout,
            {
                f"{_INSTRUCTIONS}{stage}:{batch_number:09d}": orjson.dumps(
                    {"sha256": instructions_hash(text), "text": text}
                ).decode()
                for stage, text in changed.items()
            },
        )
    return changed


def instructions_hash(text: str) -> str:
    """Return the SHA-256 of the instructions of a stage; "" for the built-in ones."""
    return sha256(text.encode()).hexdigest() if text else ""


def instructions_at(facts: Mapping[str, str], batch_number: int) -> dict[Stage, str]:
    """Return the configuration's own instructions with which a batch was asked, of the stages that had some."""
    found = dict[Stage, str]()
    for name in sorted(name for name in facts if name.startswith(_INSTRUCTIONS)):
        _, stage, since = name.split(":")
        if int(since) <= batch_number:
            found[Stage(stage)] = orjson.loads(facts[name])["text"]
    return {stage: text for stage, text in found.items() if text}


def all_instructions(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Return all instructions of the configuration with which this run's batches were asked."""
    found = (orjson.loads(value)["text"] for name, value in facts.items() if name.startswith(_INSTRUCTIONS))
    return tuple(dict.fromkeys(filter(None, found)))


def known_facts(layout: Layout) -> dict[str, str]:
    """Return the facts of a run; {} if they are lost: `verify` says so."""
    try:
        return read_facts(layout)
    except InputError:
        return {}


def add_facts(layout: Layout, facts: Mapping[str, str]) -> None:
    """Add facts to those beside the requests. Does nothing if these are lost: `verify` says so."""
    try:
        known = read_facts(layout)
    except InputError:
        return
    write_durably(layout.root / "requests" / "run.json", [orjson.dumps({**known, **facts})])


def manifest_matches(run: Run) -> bool:
    """Return whether the files beside the requests belong to this run. They may be missing after a kill."""
    if not (run.layout.root / "requests" / "seeds.jsonl.zst").exists():
        return False
    try:
        return read_facts(run.layout).get("run") == run.store.fact("run")
    except InputError:
        return False


def read_facts(layout: Layout) -> dict[str, str]:
    """Return the facts of a run. Raises InputError if there is no run, or its facts are lost."""
    path = layout.root / "requests" / "run.json"
    try:
        return dict(orjson.loads(path.read_bytes()))
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: {why}.", do="Restore requests/ from a backup: rebuild needs it unchanged.") from None


def read_manifest_seeds(layout: Layout) -> Iterator[Turn]:
    """Return the seeds of a run, in order. Raises InputError if they are missing or damaged."""
    path = layout.root / "requests" / "seeds.jsonl.zst"
    try:
        with path.open("rb") as stream, zstandard.ZstdDecompressor().stream_reader(stream) as reader:
            rest = b""
            while block := reader.read(1 << 20):
                *whole, rest = (rest + block).split(b"\n")
                yield from (Turn(*orjson.loads(line)) for line in whole)
    except (OSError, ValueError, zstandard.ZstdError) as error:
        raise InputError(
            f"{path}: {error}.", do="Restore requests/ from a backup: rebuild needs it unchanged."
        ) from None
