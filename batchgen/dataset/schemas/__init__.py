"""JSON Schemas of the records in output files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from jsonschema_rs import Draft202012Validator


@cache
def validator(name: str) -> Draft202012Validator:
    """Return the compiled validator of schema `name` (NAME.json beside this file)."""
    from jsonschema_rs import Draft202012Validator

    return Draft202012Validator(orjson.loads(files(__name__).joinpath(f"{name}.json").read_bytes()))
