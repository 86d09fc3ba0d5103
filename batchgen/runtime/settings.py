"""`batchgen.toml` and the environment -> one frozen Settings. Every key is optional; CONTRACT names them all."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from batchgen.core.dialogue import Stage
from batchgen.core.errors import KeyRefused, SetupError
from batchgen.core.pricing import Price
from batchgen.runtime.logs import learn

# Quality flags that a text and its own dialogue decide, by the stage whose text they look at
# (dataset/quality/flags.py).
_ANY_TEXT = ("language_drift", "template_artefact", "leaked_instruction", "degenerate_repetition", "prompt_echo")
RETRY_FLAGS = {
    Stage.QUESTION: ("question_repeats", "question_asks_nothing", "question_offers", *_ANY_TEXT),
    Stage.ANSWER: ("refusal", *_ANY_TEXT),
    Stage.CORRECTION: ("correction_equals_answer", "correction_nearly_answer", "refusal", *_ANY_TEXT),
}


class ProviderSettings(NamedTuple):
    models: tuple[str, ...]
    enqueued_tokens: int
    concurrent_batches: int = 100
    # Google documents batch on v1beta only, while its SDK talks v1 since 3.0.0 (2026-11-05).
    api_version: str = "v1beta"


class StageSettings(NamedTuple):
    """One stage: who writes it, and how. `target_characters` is the length the prompt asks for; when more than
    `max_rejected_share` of the settled conversations were left behind, the step stops itself; a reply that raises one
    of `retry_flags` is asked again.
    """

    provider: str
    max_output_tokens: int
    temperature: float = 1.0
    target_characters: int = 400
    max_rejected_share: float = 0.5
    retry_flags: tuple[str, ...] = ()


class CorrectionSettings(NamedTuple):
    """The same; `ask_next`: the correction of a middle round brings the next round's question along."""

    provider: str
    max_output_tokens: int
    temperature: float = 1.0
    target_characters: int = 400
    max_rejected_share: float = 0.5
    retry_flags: tuple[str, ...] = ()
    ask_next: bool = False


class BatchSettings(NamedTuple):
    """How requests are cut into batches, and how patient the program is. Sizes in bytes, times in seconds."""

    max_requests: int = 2000
    max_bytes: int = 50_000_000
    max_attempts: int = 3
    http_timeout_seconds: float = 120
    reconcile_grace_seconds: float = 900


class Settings(NamedTuple):
    """A run's configuration. What each key takes stands in settings_file."""

    rounds: int = 3
    history_messages: int = 16
    max_usd: float = 0
    gemini: ProviderSettings = ProviderSettings(
        # The older ones are cheaper, but may be closed to new keys.
        models=("gemini-2.5-flash-lite", "gemini-3.1-flash-lite", "gemini-3.5-flash-lite"),
        enqueued_tokens=10_000_000,
    )
    # 30 billion tokens enqueued per model: docs.together.ai/docs/inference/batch/overview (2026)
    together: ProviderSettings = ProviderSettings(
        models=("meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo", "Qwen/Qwen3.5-9B"), enqueued_tokens=30_000_000_000
    )
    question: StageSettings = StageSettings(provider="gemini", max_output_tokens=128)
    answer: StageSettings = StageSettings(provider="together", max_output_tokens=512)
    correction: CorrectionSettings = CorrectionSettings(provider="gemini", max_output_tokens=512)
    batches: BatchSettings = BatchSettings()
    prices: dict[str, Price] = {}  # noqa: RUF012 - nobody changes it

    def stage(self, stage: Stage) -> StageSettings | CorrectionSettings:
        found: StageSettings | CorrectionSettings = getattr(self, stage)
        return found

    def provider(self, name: str) -> ProviderSettings:
        found: ProviderSettings = getattr(self, name)
        return found


PROVIDERS = tuple(name for name, value in Settings._field_defaults.items() if isinstance(value, ProviderSettings))
KEY_VARIABLES = tuple(f"{name.upper()}_API_KEY" for name in PROVIDERS)  # `providers` says the same, and loads more


def load(root: Path, config: Path | None = None) -> Settings:
    """Read `config` (default `root`/batchgen.toml; only a missing default is fine).

    Raises SetupError naming the file and the key.
    """
    path = config or root / "batchgen.toml"
    if config is None and not path.exists():
        return Settings()
    from batchgen.runtime.settings_file import read

    return read(path)


def mask_keys(variables: Mapping[str, str]) -> None:
    """Mask the key of every provider in all that is said from now on, also of one that this run does not use."""
    for name in KEY_VARIABLES:
        learn(variables.get(name, "").strip())


def environment(root: Path) -> dict[str, str]:
    """The process environment, with what a 0600 `.env` in `root` adds to it. The environment wins.

    Raises SetupError when others may read the `.env` file.
    """
    path = root / ".env"
    values: dict[str, str] = {}
    try:
        mode = path.stat().st_mode
        text = path.read_text("utf-8-sig")
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
    mask_keys(values)
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
