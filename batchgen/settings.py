"""`batchgen.toml` and the environment -> one frozen Settings. Every key is optional; CONTRACT names them all."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from batchgen.dialogue import Stage
from batchgen.errors import KeyRefused, SetupError
from batchgen.logs import learn

Positive = Annotated[int, Meta(ge=1)]
NonNegative = Annotated[float, Meta(ge=0)]


# Quality flags that a text and its own dialogue decide, by the stage whose text they look at (batchgen/quality.py).
_ANY_TEXT = ("language_drift", "template_artefact", "leaked_instruction", "degenerate_repetition", "prompt_echo")
RETRY_FLAGS = {
    Stage.QUESTION: ("question_repeats", "question_asks_nothing", "question_offers", *_ANY_TEXT),
    Stage.ANSWER: ("refusal", *_ANY_TEXT),
    Stage.CORRECTION: ("correction_equals_answer", "correction_nearly_answer", "refusal", *_ANY_TEXT),
}


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file. Unknown keys are refused: a misspelt limit must not be ignored."""


class ProviderSettings(Section, frozen=True):
    models: Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=1)]
    enqueued_tokens: Positive
    concurrent_batches: Positive = 100
    # Google documents batch on v1beta only, while its SDK talks v1 since 3.0.0 (2026-11-05).
    api_version: str = "v1beta"


class StageSettings(Section, frozen=True):
    """One stage: who writes it, and how. `target_characters` is the length the prompt asks for; when more than
    `max_rejected_share` of the settled conversations were left behind, the step stops itself; a reply that raises one
    of `retry_flags` is asked again.
    """

    provider: Literal["gemini", "together"]
    max_output_tokens: Positive
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    target_characters: Positive = 400
    max_rejected_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    retry_flags: tuple[str, ...] = ()


class CorrectionSettings(StageSettings, frozen=True):
    """`ask_next`: the correction of a middle round brings the next round's question along."""

    ask_next: bool = False


class BatchSettings(Section, frozen=True):
    """How requests are cut into batches, and how patient the program is. Sizes in bytes, times in seconds."""

    max_requests: Positive = 2000
    max_bytes: Positive = 50_000_000
    max_attempts: Positive = 3
    http_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 120
    reconcile_grace_seconds: NonNegative = 900


class Price(Section, frozen=True):
    """USD per million tokens in batch, set by the user in place of the shipped price list."""

    input: NonNegative
    output: NonNegative
    cached_input: NonNegative | None = None


class Settings(Section, frozen=True):
    """A run's configuration."""

    rounds: Annotated[int, Meta(ge=2, le=50)] = 3
    history_messages: Annotated[int, Meta(ge=2)] = 16
    max_usd: NonNegative = 0
    gemini: ProviderSettings = ProviderSettings(
        models=("gemini-2.5-flash-lite", "gemini-3.1-flash-lite"), enqueued_tokens=10_000_000
    )
    # 30 billion tokens enqueued per model: docs.together.ai/docs/inference/batch/overview (2026)
    together: ProviderSettings = ProviderSettings(
        models=("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"), enqueued_tokens=30_000_000_000
    )
    question: StageSettings = StageSettings(provider="gemini", max_output_tokens=128)
    answer: StageSettings = StageSettings(provider="together", max_output_tokens=512)
    correction: CorrectionSettings = CorrectionSettings(provider="gemini", max_output_tokens=512)
    batches: BatchSettings = BatchSettings()
    prices: dict[str, Price] = {}

    def stage(self, stage: Stage) -> StageSettings:
        return {Stage.QUESTION: self.question, Stage.ANSWER: self.answer, Stage.CORRECTION: self.correction}[stage]

    def provider(self, name: str) -> ProviderSettings:
        found: ProviderSettings = getattr(self, name)
        return found


def load(root: Path, config: Path | None = None) -> Settings:
    """Read `config` (default `root`/batchgen.toml; only a missing default is fine).

    Raises SetupError naming the file and the key.
    """
    path = config or root / "batchgen.toml"
    if config is None and not path.exists():
        return Settings()
    import tomllib

    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file.", do="Check --config.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SetupError(f"{path}: {error}", do="Mend the file; README lists every key.") from None
    return _convert(path, table)


def _convert(path: Path, table: dict[str, object]) -> Settings:
    """Lay the file's tables over the defaults, key by key, and check the whole."""
    merged = msgspec.to_builtins(Settings())
    for key, value in table.items():
        section = merged.get(key)
        merged[key] = {**section, **value} if isinstance(section, dict) and isinstance(value, dict) else value
    try:
        settings = msgspec.convert(merged, Settings)
    except msgspec.ValidationError as error:
        raise SetupError(f"{path}: {error}", do="README lists every key and what it takes.") from None
    for stage, known in RETRY_FLAGS.items():
        if unknown := [name for name in settings.stage(stage).retry_flags if name not in known]:
            raise SetupError(
                f"{path}: [{stage}] retry_flags: no reply is asked again for {', '.join(unknown)}.",
                do=f"Flags that can: {', '.join(known)}.",
            )
    return settings


def environment(root: Path) -> dict[str, str]:
    """The process environment, with what a 0600 `.env` in `root` adds to it. The environment wins.

    Raises SetupError when others may read the `.env` file.
    """
    path = root / ".env"
    values: dict[str, str] = {}
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return dict(os.environ)
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"{path}: {error}", do="Make it a UTF-8 file that you can read.") from None
    if stat.S_IMODE(mode) & 0o077:
        raise SetupError(f"{path}: others may read this file.", do=f"Run: chmod 600 {path}")
    for line in text.split("\n"):
        name, sign, value = line.strip().removeprefix("export ").partition("=")
        if sign and not name.startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    # An empty variable (KEY= in a crontab) hides nothing.
    return {**values, **{name: value for name, value in os.environ.items() if value or name not in values}}


def api_key(variables: dict[str, str], name: str) -> str:
    """The key in variable `name`, checked for what no HTTP header can carry. Raises KeyRefused."""
    key = variables.get(name, "").strip()
    learn(key)
    if not key:
        raise KeyRefused(
            f"{name} is not set.", do=f"Put {name}=... into the environment, or into ROOT/.env (mode 0600)."
        )
    if not key.isascii() or not key.isprintable() or set(key) & set(" \"'"):
        raise KeyRefused(
            f"{name} holds characters that no key has (a line break, a blank, a quote?).", do="Set it anew."
        )
    return key


def is_loopback(url: str | None) -> bool:
    """Whether `url` points at this machine."""
    from urllib.parse import urlsplit

    return url is not None and urlsplit(url).hostname in {"127.0.0.1", "localhost", "::1"}
