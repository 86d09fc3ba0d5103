"""JSON Schemas of the records that leave the program."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import orjson


@cache
def validator(name: str) -> Any:
    """The validator of schema `name` (NAME.json beside this file)."""
    from jsonschema import Draft202012Validator

    schema = orjson.loads(files(__name__).joinpath(f"{name}.json").read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
