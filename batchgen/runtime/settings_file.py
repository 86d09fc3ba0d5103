"""`batchgen.toml` read and checked by hand, key by key: a tick that finds nothing to do loads no decoder for it."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from batchgen.core.errors import SetupError
from batchgen.core.pricing import Price
from batchgen.runtime.settings import PROVIDERS, RETRY_FLAGS, Settings

Where = tuple[str | int, ...]  # the keys from the top of the file to a value, and its place in a list

_KINDS = {
    bool: "true or false",
    dict: "a section",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
}
_BARE = re.compile(r"[\w-]+", re.ASCII)
_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")


class _Mistake(ValueError):
    """A key that is not as it must be: where it stands, and in words that follow its name what it must be."""

    def __init__(self, where: Where, words: str, *, do: str = "README lists every key and what it takes.") -> None:
        super().__init__(f"{_name(where)} {words}")
        self.where, self.do = where, do


def read(path: Path) -> Settings:
    """The defaults with what the file says otherwise. Raises SetupError naming the file, the line and the key."""
    try:
        text = path.read_text("utf-8-sig")  # some editors begin with a byte order mark
    except FileNotFoundError:
        raise SetupError(f"{path}: no such file.", do="Check --config.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SetupError(f"{path}, line {line}: this is not UTF-8.", do="Save the file as UTF-8.") from None
    except OSError as error:
        raise SetupError(f"{path}: {error.strerror}.", do="It must be a file that you can read.") from None
    try:
        settings: Settings = _section(Settings(), tomllib.loads(text), ())
        _check_flags(settings)
    except _Mistake as error:
        raise SetupError(f"{path}, line {_line(text, error.where)}: {error}", do=error.do) from None
    except tomllib.TOMLDecodeError as error:
        raise SetupError(_not_toml(path, text, str(error)), do="Mend the file; README shows every key.") from None
    return settings


def _not_toml(path: Path, text: str, said: str) -> str:
    place = _PLACE.search(said)
    line = int(place[1]) if place else text.count("\n") + 1
    return f"{path}, line {line}: this is not TOML: {_PLACE.sub('', said)}"


def _line(text: str, where: Where) -> int:
    """The line, from 1, at which what stands at `where` begins: the first lines with it are TOML, those before are not
    or have it not.
    """
    keys = [key for key in where if isinstance(key, str)]
    lines, begin = text.split("\n"), 1
    for count in range(1, len(lines) + 1):
        try:
            table: Any = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:  # in the midst of a list
            continue
        for key in keys:
            table = table.get(key) if isinstance(table, dict) else None
        if table is not None:
            break
        begin = count + 1
    return begin


def tables(section: Any) -> dict[str, Any]:
    """A section's keys and values, and those of its sections: what a file that sets every key would say."""
    return {name: tables(value) if _is_section(value) else value for name, value in section._asdict().items()}


def _is_section(value: object) -> bool:
    return hasattr(value, "_asdict")


def _section(default: Any, table: Any, where: Where) -> Any:
    """`default` with what `table` says otherwise. An unknown key is refused: a misspelt limit must not be ignored."""
    found = {}
    for name, value in _table(table, where).items():
        inside = (*where, name)
        if name not in default._fields:
            raise _unknown(inside, default._fields)
        before = getattr(default, name)
        found[name] = _section(before, value, inside) if _is_section(before) else _CHECKS[name](value, inside)
    return default._replace(**found)


def _unknown(where: Where, known: tuple[str, ...]) -> _Mistake:
    from difflib import get_close_matches  # here: only a mistake wants it

    meant = get_close_matches(str(where[-1]), known, n=1)
    do = f"Did you mean {meant[0]}?" if meant else f"Here can stand: {', '.join(known)}."
    return _Mistake(where, "is no key that there is.", do=do)


def _table(value: Any, where: Where) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _not_a(dict, value, where)
    return value


def _name(where: Where) -> str:
    """As TOML names it: `gemini.models[0]`, `prices."org/model"`."""
    said = ""
    for key in where:
        if isinstance(key, int):
            said += f"[{key}]"
        else:
            said += ("." if said else "") + (key if _BARE.fullmatch(key) else f'"{key}"')
    return said


def _not_a(kind: type, value: object, where: Where) -> _Mistake:
    return _Mistake(where, f"must be {_KINDS[kind]}, not {_KINDS.get(type(value), 'a date or a time')}.")


def _whole(value: Any, where: Where, *, least: int = 1, most: int | None = None) -> int:
    if type(value) is not int:  # True is no number
        raise _not_a(int, value, where)
    if value < least:
        raise _Mistake(where, f"must be at least {least}, not {value}.")
    if most is not None and value > most:
        raise _Mistake(where, f"must be at most {most}, not {value}.")
    return value


def _number(value: Any, where: Where, *, least: float = 0.0, most: float = float("inf")) -> float:
    """At least `least`, and so a number: NaN is not."""
    if type(value) not in (int, float):
        raise _not_a(float, value, where)
    if not value >= least:
        raise _Mistake(where, f"must be at least {least:g}, not {value}.")
    if value > most:
        raise _Mistake(where, f"must be at most {most:g}, not {value}.")
    try:
        return float(value)
    except OverflowError:  # TOML's whole numbers have any size
        raise _Mistake(where, "is larger than any number that can be counted with.") from None


def _positive(value: Any, where: Where, *, most: float) -> float:
    found = _number(value, where, least=float("-inf"), most=most)
    if not found > 0:
        raise _Mistake(where, f"must be more than 0, not {value}.")
    return found


def _truth(value: Any, where: Where) -> bool:
    if not isinstance(value, bool):
        raise _not_a(bool, value, where)
    return value


def _text(value: Any, where: Where) -> str:
    if not isinstance(value, str):
        raise _not_a(str, value, where)
    return value


def _texts(value: Any, where: Where) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise _not_a(list, value, where)
    return tuple(_text(one, (*where, place)) for place, one in enumerate(value))


def _models(value: Any, where: Where) -> tuple[str, ...]:
    found = _texts(value, where)
    if not found:
        raise _Mistake(where, "must name a model.")
    for place, name in enumerate(found):
        if not name:
            raise _Mistake((*where, place), "must name a model.")
    return found


def _provider(value: Any, where: Where) -> str:
    if _text(value, where) not in PROVIDERS:
        raise _Mistake(where, f"must be {' or '.join(PROVIDERS)}, not {value!r}.")
    return str(value)


def _prices(value: Any, where: Where) -> dict[str, Price]:
    return {model: _price(price, (*where, model)) for model, price in _table(value, where).items()}


def _price(value: Any, where: Where) -> Price:
    table = _table(value, where)
    for name in table:
        if name not in Price._fields:
            raise _unknown((*where, name), Price._fields)
    for name in Price._fields:
        if name not in table and name not in Price._field_defaults:
            raise _Mistake(where, f"needs {name}: USD per million tokens in batch.")
    return Price(**{name: _number(one, (*where, name)) for name, one in table.items()})


def _check_flags(settings: Settings) -> None:
    for stage, known in RETRY_FLAGS.items():
        if unknown := [name for name in settings.stage(stage).retry_flags if name not in known]:
            words = f"names what no reply is asked again for: {', '.join(unknown)}."
            raise _Mistake((str(stage), "retry_flags"), words, do=f"Flags that can: {', '.join(known)}.")


_CHECKS: Mapping[str, Callable[[Any, Where], Any]] = {
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
