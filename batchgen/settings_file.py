"""`batchgen.toml` read and checked by hand, key by key: a tick that finds nothing to do loads no decoder for it."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.errors import SetupError
from batchgen.settings import PROVIDERS, RETRY_FLAGS, Price, Settings

_KINDS = {"list": "array", "tuple": "array", "dict": "object"}


class _Mistake(ValueError):
    """A key that is not as it must be; the text says which, and what it takes."""


def read(path: Path) -> Settings:
    """The defaults with what the file says otherwise. Raises SetupError naming the file and the key."""
    try:
        table = tomllib.loads(path.read_text("utf-8-sig"))  # some editors begin with a byte order mark
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file.", do="Check --config.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SetupError(f"{path}: {error}", do="Mend the file; README lists every key.") from None
    try:
        settings: Settings = _section(Settings(), table, "$")
    except _Mistake as error:
        raise SetupError(f"{path}: {error}", do="README lists every key and what it takes.") from None
    for stage, known in RETRY_FLAGS.items():
        if unknown := [name for name in settings.stage(stage).retry_flags if name not in known]:
            raise SetupError(
                f"{path}: [{stage}] retry_flags: no reply is asked again for {', '.join(unknown)}.",
                do=f"Flags that can: {', '.join(known)}.",
            )
    return settings


def tables(section: Any) -> dict[str, Any]:
    """A section's keys and values, and those of its sections: what a file that sets every key would say."""
    return {name: tables(value) if _is_section(value) else value for name, value in section._asdict().items()}


def _is_section(value: object) -> bool:
    return hasattr(value, "_asdict")


def _section(default: Any, table: Any, where: str) -> Any:
    """`default` with what `table` says otherwise. An unknown key is refused: a misspelt limit must not be ignored."""
    found = {}
    for name, value in _object(table, where).items():
        if name not in default._fields:
            raise _Mistake(f"Object contains unknown field `{name}`{_at(where)}")
        before, inside = getattr(default, name), f"{where}.{name}"
        found[name] = _section(before, value, inside) if _is_section(before) else _CHECKS[name](value, inside)
    return default._replace(**found)


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _expected("object", value, where)
    return value


def _at(where: str) -> str:
    return "" if where == "$" else f" - at `{where}`"


def _expected(kind: str, value: object, where: str) -> _Mistake:
    name = type(value).__name__
    return _Mistake(f"Expected `{kind}`, got `{_KINDS.get(name, name)}`{_at(where)}")


def _whole(value: Any, where: str, *, least: int = 1, most: int | None = None) -> int:
    if type(value) is not int:  # True is no number
        raise _expected("int", value, where)
    if value < least:
        raise _Mistake(f"Expected `int` >= {least}{_at(where)}")
    if most is not None and value > most:
        raise _Mistake(f"Expected `int` <= {most}{_at(where)}")
    return value


def _number(value: Any, where: str, *, least: float = 0.0, most: float = float("inf")) -> float:
    """At least `least`, and so a number: NaN is not."""
    if type(value) not in (int, float):
        raise _expected("float", value, where)
    if not value >= least:
        raise _Mistake(f"Expected `float` >= {least}{_at(where)}")
    if value > most:
        raise _Mistake(f"Expected `float` <= {most}{_at(where)}")
    return float(value)


def _positive(value: Any, where: str, *, most: float) -> float:
    found = _number(value, where, least=float("-inf"), most=most)
    if not found > 0:
        raise _Mistake(f"Expected `float` > 0.0{_at(where)}")
    return found


def _truth(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise _expected("bool", value, where)
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _expected("str", value, where)
    return value


def _texts(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _expected("array", value, where)
    return tuple(_text(one, f"{where}[{place}]") for place, one in enumerate(value))


def _models(value: Any, where: str) -> tuple[str, ...]:
    found = _texts(value, where)
    if not found:
        raise _Mistake(f"Expected `array` of length >= 1{_at(where)}")
    for place, name in enumerate(found):
        if not name:
            raise _Mistake(f"Expected `str` of length >= 1{_at(f'{where}[{place}]')}")
    return found


def _provider(value: Any, where: str) -> str:
    if _text(value, where) not in PROVIDERS:
        raise _Mistake(f"Invalid enum value {value!r}{_at(where)}")
    return str(value)


def _prices(value: Any, where: str) -> dict[str, Price]:
    return {model: _price(price, f"{where}[...]") for model, price in _object(value, where).items()}


def _price(value: Any, where: str) -> Price:
    table = _object(value, where)
    for name in table:
        if name not in Price._fields:
            raise _Mistake(f"Object contains unknown field `{name}`{_at(where)}")
    for name in Price._fields:
        if name not in table and name not in Price._field_defaults:
            raise _Mistake(f"Object missing required field `{name}`{_at(where)}")
    return Price(**{name: _number(one, f"{where}.{name}") for name, one in table.items()})


_CHECKS: Mapping[str, Callable[[Any, str], Any]] = {
    "rounds": partial(_whole, least=2, most=50),
    "history_messages": partial(_whole, least=2),
    "max_usd": _number,
    "prices": _prices,
    "models": _models,
    "enqueued_tokens": _whole,
    "concurrent_batches": _whole,
    "api_version": _text,
    "provider": _provider,
    "max_output_tokens": _whole,
    "temperature": partial(_number, most=2.0),
    "target_characters": _whole,
    "max_rejected_share": partial(_positive, most=1.0),
    "retry_flags": _texts,
    "ask_next": _truth,
    "max_requests": _whole,
    "max_bytes": _whole,
    "max_attempts": _whole,
    "http_timeout_seconds": partial(_positive, most=3600.0),
    "reconcile_grace_seconds": _number,
}
