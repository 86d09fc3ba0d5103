"""Make a finished run with difficult texts, export it, and read the export."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from batchgen.dataset.verify_exports import verify_exports
from batchgen.emulator.backends.builtin import Prompt, Scripted, default_text
from batchgen.engine.session import Session
from batchgen.ledger.store import Store
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import load_settings
from tests.support.bench import Bench, seeds
from tests.support.grown_run import grow

HOSTILE = (
    ' \u2028\u2029\u0085\ufeff "quoted" \\n {braces} %s </s>x \t| cell | \U0001f469\u200d\U0001f52c'
    " \u202eright to left\u202c e\u0301 中文，问号？ \U00020000 2024-01-01 \ufffd"
)
COUNT = 12
REJECTED = 5  # the conversation whose answers are always empty
EQUAL = (2, 7)  # seeds whose correction equals the answer
TWINS = (3, 4, 9)  # seeds with the same question


def hostile_text(prompt: Prompt) -> str:
    """A scripted reply with the characters of HOSTILE. The answers of conversation REJECTED are empty."""
    text = default_text(prompt)
    if prompt.schema is None:
        asked = prompt.messages[-1].content + prompt.messages[-3].content if len(prompt.messages) > 2 else ""
        return "" if f"number {REJECTED} " in asked else text + HOSTILE
    return json.dumps({name: value + HOSTILE for name, value in json.loads(text).items()})


def hostile_seeds() -> list[dict[str, str]]:
    rows = seeds(COUNT)
    for number in EQUAL:
        rows[number - 1]["correction"] = rows[number - 1]["answer"]
    for number in TWINS:
        rows[number - 1]["question"] = "Which twin am I?"
    rows[10]["question"] += HOSTILE
    return rows


def grown(folder: Path) -> Path:
    """The root of a finished run of these seeds."""

    def prepare(bench: Bench) -> None:
        bench.configure("[batches]\nmax_requests = 7\n")
        assert bench.prepare(hostile_seeds()).code == 0

    return grow(folder / "run", prepare, backend=Scripted(hostile_text)).root


def export(bench: Bench, form: str, output: Path, *options: str) -> Any:
    result = bench.run("export", "--format", form, "--output", str(output), "--json", *options)
    assert result.code == 0, result
    return result.json


def records(path: Path) -> list[dict[str, Any]]:
    """Read an exported file without the code of the program."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    return [orjson.loads(line) for line in path.read_bytes().split(b"\n") if line]


def problems(bench: Bench, path: Path) -> list[str]:
    layout = Layout(bench.root)
    store = Store.read(layout.store)
    assert store is not None
    with closing(store):
        return list(verify_exports(path, Session(layout, load_settings(bench.root), store, {})))
