"""Read `batchgen.toml` into frozen Settings. Every key is optional; docs/configuration.md lists them all."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import msgspec
from msgspec import Meta, Struct

from batchgen.core.dialogue import MAX_ROUNDS, STAGES, HistoryShows, Stage
from batchgen.core.errors import SetupError
from batchgen.core.pricing import Price
from batchgen.core.text import fill_length

PROVIDERS = ("gemini", "together", "deepinfra", "openai", "groq", "parasail", "nebius", "inference", "doubleword")
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"

# Quality flags that need only a text and its own dialogue, by the stage whose text they look at
# (dataset/quality/flags.py).
_ANY_STAGE_FLAGS = ("language_drift", "template_artefact", "leaked_instruction", "degenerate_repetition", "prompt_echo")
RETRY_FLAGS = {
    Stage.QUESTION: ("question_repeats", "question_asks_nothing", "question_offers", *_ANY_STAGE_FLAGS),
    Stage.ANSWER: ("refusal", *_ANY_STAGE_FLAGS),
    Stage.CORRECTION: ("correction_equals_answer", "correction_nearly_answer", "refusal", *_ANY_STAGE_FLAGS),
    Stage.AUDIT: (),
}

Count = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file. An unknown key is an error: a misspelt limit must not be ignored."""


class ModelChoice(NamedTuple):
    """A model of a provider, written PROVIDER:MODEL."""

    provider: str
    model: str

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PROVIDER:MODEL. Without a colon the model is ""."""
        provider, _, model = text.partition(":")
        return cls(provider, model)


class ProviderSettings(_Section, frozen=True):
    """The settings of one provider. `models` are asked by stages that name the provider and no models of their own."""

    models: Annotated[tuple[Name, ...], Meta(min_length=1)] = ()
    enqueued_tokens: Count = 30_000_000_000
    concurrent_batches: Count = 100
    # Google documents batch on v1beta only, while its SDK uses v1 since 3.0.0 (2026-11-05).
    api_version: str = "v1beta"


class StageSettings(_Section, frozen=True):
    """The settings of one stage: its models, and limits.

    `models` are PROVIDER:MODEL in order of preference; without them, all models of `provider`. `target_characters` is
    the length that the prompt asks for. If more than `max_rejected_share` of the settled conversations are rejected,
    the step stops. A reply with one of `retry_flags` is retried. `ask_next` (correction only): the correction of a
    middle round also asks for the next question. `instructions` replace the built-in ones; load_settings reads those
    of `instructions_file`.
    """

    provider: str
    max_output_tokens: Count
    models: tuple[Name, ...] = ()
    temperature: Annotated[float, Meta(ge=0, le=2)] = 1.0
    target_characters: Count = 400
    max_rejected_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    retry_flags: tuple[str, ...] = ()
    ask_next: bool = False
    instructions: str = ""
    instructions_file: str = ""


class BatchSettings(_Section, frozen=True):
    """How requests are split into batches, and how long to wait. Sizes in bytes, times in seconds.

    `echo`: where a provider can fix a value in a schema, a JSON reply must repeat two characters of its own request.
    """

    max_requests: Count = 2000
    max_bytes: Count = 50_000_000
    max_attempts: Count = 3
    http_timeout_seconds: Annotated[float, Meta(gt=0, le=3600)] = 120
    reconcile_grace_seconds: Amount = 900
    echo: bool = True


class HistorySettings(_Section, frozen=True):
    """What the question and the correction stage see of earlier turns."""

    shows: HistoryShows = HistoryShows.CORRECTIONS


class NotifySettings(_Section, frozen=True):
    """What is told once when the run is finished, or needs a person: `url` gets a POST, `command` is run."""

    url: str = ""
    command: str = ""


class Settings(_Section, frozen=True):
    """The configuration of a run."""

    rounds: Annotated[int, Meta(ge=2, le=MAX_ROUNDS)] = 3
    history_messages: Annotated[int, Meta(ge=2)] = 16
    max_usd: Amount = 0
    history: HistorySettings = HistorySettings()
    gemini: ProviderSettings = ProviderSettings(
        # The older ones are cheaper, but may be closed to new keys.
        models=("gemini-2.5-flash-lite", "gemini-3.1-flash-lite", "gemini-3.5-flash-lite"),
        enqueued_tokens=10_000_000,
    )
    # 30 billion tokens enqueued per model: docs.together.ai/docs/inference/batch/overview (2026)
    together: ProviderSettings = ProviderSettings(models=(LLAMA, "Qwen/Qwen3.5-9B"), enqueued_tokens=30_000_000_000)
    deepinfra: ProviderSettings = ProviderSettings(models=(LLAMA,))
    openai: ProviderSettings = ProviderSettings()
    groq: ProviderSettings = ProviderSettings()
    parasail: ProviderSettings = ProviderSettings()
    nebius: ProviderSettings = ProviderSettings()
    inference: ProviderSettings = ProviderSettings()
    doubleword: ProviderSettings = ProviderSettings()
    question: StageSettings = StageSettings(provider="gemini", max_output_tokens=128)
    # Together no longer serves this Llama to everybody; DeepInfra does, at about a tenth of the price of the third.
    answer: StageSettings = StageSettings(
        provider="together",
        max_output_tokens=512,
        models=(f"together:{LLAMA}", f"deepinfra:{LLAMA}", "together:Qwen/Qwen3.5-9B"),
    )
    correction: StageSettings = StageSettings(provider="gemini", max_output_tokens=512)
    # A judge likes the texts of its own family, so the first ones wrote neither the answers nor the corrections.
    audit: StageSettings = StageSettings(
        provider="together",
        max_output_tokens=512,  # also for the thoughts of a model that cannot be told not to think
        models=("together:zai-org/GLM-5.3-Flash", "gemini:gemini-3.6-flash"),
        temperature=0.0,
    )
    batches: BatchSettings = BatchSettings()
    notify: NotifySettings = NotifySettings()
    prices: dict[str, Price] = msgspec.field(default_factory=dict)

    def stage(self, stage: Stage) -> StageSettings:
        found: StageSettings = getattr(self, stage)
        return found

    def provider(self, name: str) -> ProviderSettings:
        found: ProviderSettings = getattr(self, name)
        return found

    def choices(self, stage: Stage) -> tuple[ModelChoice, ...]:
        """Return the models that may write `stage`, in order of preference."""
        chosen = self.stage(stage)
        if chosen.models:
            return tuple(map(ModelChoice.parse, chosen.models))
        return tuple(ModelChoice(chosen.provider, model) for model in self.provider(chosen.provider).models)

    def own_instructions(self) -> dict[Stage, str]:
        """Return the configured instructions of the stages that have some, with the length filled in."""
        stages = ((stage, self.stage(stage)) for stage in STAGES)
        return {
            stage: fill_length(one.instructions, one.target_characters) for stage, one in stages if one.instructions
        }


# ---------------------------------------------------------------- batchgen.toml

_Where = tuple[str | int, ...]  # the keys from the top of the file to a value, and its place in a list
_WORDS = {
    "`int`": "a whole number",
    "`float`": "a number",
    "`str`": "a text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a section",
}


class _InvalidKey(Exception):
    """A key with a wrong value, and where it is in the file."""

    def __init__(self, where: _Where, message: str, *, do: str = "docs/configuration.md lists every key.") -> None:
        super().__init__(message)
        self.where, self.do = where, do


def load_settings(root: Path, config: Path | None = None) -> Settings:
    """Read `config` (default `root`/batchgen.toml; only a missing default is fine).

    Raises SetupError naming the file, the line and the key.
    """
    path = config or root / "batchgen.toml"
    if config is None and not path.exists():
        return Settings()
    try:
        text = path.read_text("utf-8-sig")  # some editors begin with a byte order mark
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file.", do="Check --config.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SetupError(f"{path}, line {line}: this is not UTF-8.", do="Save the file as UTF-8.") from None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}.", do="It must be a file that you can read.") from None
    import tomllib  # here and below: an idle tick of a run without this file saves 5 ms

    try:
        return _settings(tomllib.loads(text), path.parent)
    except _InvalidKey as error:
        raise SetupError(f"{path}, line {_line(text, error.where)}: {error}", do=error.do) from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        line, words = (int(place[1]), str(error)[: place.start()]) if place else (text.count("\n") + 1, str(error))
        do = "Correct the file; docs/configuration.md shows every key."
        raise SetupError(f"{path}, line {line}: this is not TOML: {words}", do=do) from None


def _settings(table: dict[str, Any], folder: Path) -> Settings:
    """Return the defaults, replaced by what `table` sets. Its paths begin in `folder`. Raises _InvalidKey."""
    prices = table.get("prices")
    if isinstance(prices, dict):
        for model, price in prices.items():  # one by one: msgspec does not say which model has the mistake
            _convert(price, Price, ("prices", model))
    merged = msgspec.to_builtins(Settings())
    for name in PROVIDERS:
        if not merged[name]["models"]:
            del merged[name]["models"]  # an empty list is a mistake in a file alone
    for name, value in table.items():
        before = merged.get(name)
        merged[name] = {**before, **value} if isinstance(before, dict) and isinstance(value, dict) else value
    _drop_default_models(merged, table)
    found: Settings = _convert(merged, Settings, ())
    if found.notify.url and not found.notify.url.startswith(("http://", "https://")):
        raise _InvalidKey(("notify", "url"), "notify.url must begin with http:// or https://.")
    for stage in Stage:
        _check_stage(stage, found)
        if text := _read_instructions(stage, table.get(stage, {}), folder):
            chosen = msgspec.structs.replace(found.stage(stage), instructions=text)
            found = msgspec.structs.replace(found, **{stage.value: chosen})
    return found


def _read_instructions(stage: Stage, own: dict[str, Any], folder: Path) -> str:
    """Return the instructions that the section of `stage` has or names, "" if none. Raises _InvalidKey."""
    keys = [key for key in ("instructions", "instructions_file") if key in own]
    if not keys:
        return ""
    where = (str(stage), keys[-1])
    name, value = _dotted_name(where), str(own[keys[-1]])
    if len(keys) > 1:
        raise _InvalidKey(where, f"[{stage}] has both `{keys[0]}` and `{keys[1]}`.", do="Delete one of them.")
    if keys == ["instructions_file"] and value:
        path, do = folder / value, "It must be a UTF-8 file that you can read, relative to the folder of this file."
        try:
            text = path.read_text("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            line = error.object.count(b"\n", 0, error.start) + 1
            raise _InvalidKey(where, f"{name}: {path}, line {line} is not UTF-8.", do="Save it as UTF-8.") from None
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise _InvalidKey(where, f"{name}: {path}: {why}.", do=do) from None
        name = f"{name}: {path}"
    else:
        text = value.strip()
    if not text:
        do = "Write the instructions there, or delete the key to use the built-in ones (see them: batchgen prompts)."
        raise _InvalidKey(where, f"{name} is empty.", do=do)
    return text


def _drop_default_models(merged: dict[str, Any], table: dict[str, Any]) -> None:
    """Drop the default models of the answers if `table` chooses others in the way of earlier versions."""
    own = {name: value for name in ("answer", "together") if isinstance(value := table.get(name), dict)}
    chosen = own.get("answer", {})
    if "models" not in chosen and ("provider" in chosen or "models" in own.get("together", {})):
        merged["answer"]["models"] = []


def _convert(value: Any, kind: type[Struct], where: _Where) -> Any:
    """Convert `value`, which is at `where`, to `kind`. Raises _InvalidKey, in our words and with the value."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        keys = [int(place) if place else key for key, place in re.findall(r"\.(\w+)|\[(\d+)\]", path)]
    where = (*where, *keys)
    if unknown := re.search("unknown field `(.*)`", message):
        raise _unknown_key((*where, unknown[1]))
    if missing := re.search("missing required field `(.*)`", message):
        raise _InvalidKey(where, f"{_dotted_name(where)} needs the key `{missing[1]}`.")
    for key in keys:
        value = value[key]
    if message.startswith("Invalid enum value"):  # history.shows is the only key of this kind
        raise _InvalidKey(where, f"{_dotted_name(where)} must be {' or '.join(HistoryShows)}, not {_shown(value)}.")
    message = message.partition(", got ")[0]
    if not message.startswith("Expected "):
        raise _InvalidKey(where, f"{_dotted_name(where)}: {message}.")
    wanted = re.sub("`.*?`", lambda found: _WORDS[found[0]], message.removeprefix("Expected "))
    raise _InvalidKey(where, f"{_dotted_name(where)} must be {wanted}, not {_shown(value)}.")


def _unknown_key(where: _Where) -> _InvalidKey:
    from difflib import get_close_matches  # needed for this message alone

    section: Any = (
        Settings if len(where) == 1 else Price if where[0] == "prices" else getattr(Settings(), str(where[0]))
    )
    known = section.__struct_fields__
    meant = get_close_matches(str(where[-1]), known, n=1)
    do = f"Did you mean `{meant[0]}`?" if meant else f"Keys of this section: {', '.join(known)}."
    return _InvalidKey(where, f"unknown key `{_dotted_name(where)}`.", do=do)


def _check_stage(stage: Stage, settings: Settings) -> None:
    """Raise _InvalidKey for values that depend on the stage, or on names of this program."""
    chosen = settings.stage(stage)
    for place, choice in enumerate(map(ModelChoice.parse, chosen.models)):
        if choice.provider not in PROVIDERS or not choice.model:
            at = (str(stage), "models", place)
            words = f"{_dotted_name(at)} must be PROVIDER:MODEL, not {_shown(chosen.models[place])}."
            raise _InvalidKey(at, words, do=f"Providers: {', '.join(PROVIDERS)}.")
    if chosen.provider not in PROVIDERS:
        where = (str(stage), "provider")
        raise _InvalidKey(
            where, f"{_dotted_name(where)} must be one of {', '.join(PROVIDERS)}, not {_shown(chosen.provider)}."
        )
    if not settings.choices(stage):
        where = (str(stage), "provider")
        do = f'Name some: [{stage}] models = ["{chosen.provider}:MODEL"], or [{chosen.provider}] models = ["MODEL"].'
        raise _InvalidKey(where, f"{_dotted_name(where)}: no model of {chosen.provider} is named.", do=do)
    if chosen.ask_next and stage is not Stage.CORRECTION:
        where = (str(stage), "ask_next")
        raise _InvalidKey(where, f"{_dotted_name(where)} must be false: only a correction can ask the next question.")
    if stage is Stage.AUDIT and (chosen.instructions or chosen.instructions_file):
        where = (str(stage), "instructions" if chosen.instructions else "instructions_file")
        raise _InvalidKey(where, f"{_dotted_name(where)}: the judge is asked in fixed words.", do="Delete the key.")
    if unknown := [name for name in chosen.retry_flags if name not in RETRY_FLAGS[stage]]:
        where = (str(stage), "retry_flags")
        words = f"{_dotted_name(where)}: {', '.join(unknown)} cannot be a reason to retry."
        can = RETRY_FLAGS[stage]
        raise _InvalidKey(where, words, do=f"Flags that can: {', '.join(can)}." if can else "Delete the key.")


def _shown(value: Any) -> str:
    """Return a value as the file writes it, cut if it is long."""
    import json

    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:80]}..."  # noqa: PLR2004 - about a line


def _dotted_name(where: _Where) -> str:
    """Return the name in TOML: `gemini.models[0]`, `prices."org/model"`."""
    said = ""
    for key in where:
        if isinstance(key, int):
            said += f"[{key}]"
        else:
            said += ("." if said else "") + (key if re.fullmatch(r"[\w-]+", key, re.ASCII) else f'"{key}"')
    return said


def _line(text: str, where: _Where) -> int:
    """Return the line, from 1, at which the value at `where` begins.

    It is the smallest number of lines that is valid TOML and has the value.
    """
    import tomllib

    keys = [key for key in where if isinstance(key, str)]
    lines, begin = text.split("\n"), 1
    for count in range(1, len(lines) + 1):
        try:
            table: Any = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # in the middle of a list
            continue
        for key in keys:
            table = table.get(key) if isinstance(table, dict) else None
        if table is not None:
            break
        begin = count + 1
    return begin
