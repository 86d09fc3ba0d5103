"""Test `--columns`: what it accepts, and what a dotted path finds in a row."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchgen.core.errors import InputError
from batchgen.dataset.rows.dotted_paths import FIELDS, column_of, find, parse_columns, suggest_columns

KEYS = st.text(st.sampled_from("ab.0-1 =,é"), max_size=4)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=12,
)


def places(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """Every value within a value, and the keys and indexes that lead to it, computed by walking over all of them."""
    found = [(path, value)] if path else []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = [(str(at), one) for at, one in enumerate(value)]
        inner += [(str(at - len(value)), one) for at, one in enumerate(value)]
    else:
        return found
    return found + [place for key, one in inner for place in places(one, (*path, key))]


@given(row=st.dictionaries(st.text(st.sampled_from("abé -1"), max_size=3), VALUES, max_size=3))
def test_every_value_is_found_at_its_path(row: dict[str, Any]) -> None:
    for path, value in places(row):
        if not any("." in key for key in path):  # then another key may be found first
            assert find(row, ".".join(path)) == value


@given(row=st.dictionaries(KEYS, VALUES, max_size=4), path=st.text(st.sampled_from("ab.0-1"), max_size=8))
def test_what_is_found_is_at_that_path(row: dict[str, Any], path: str) -> None:
    found = find(row, path)
    assert found is None or found in [value for keys, value in places(row) if ".".join(keys) == path]


@given(row=st.dictionaries(KEYS, VALUES, min_size=1, max_size=4))
def test_a_name_with_dots_is_found_first_as_a_whole(row: dict[str, Any]) -> None:
    for name, value in row.items():
        assert find(row, name) == value
        assert column_of(name, row) == name


@given(value=VALUES, path=st.text(max_size=20))
def test_any_path_is_harmless(value: Any, path: str) -> None:
    find(value, path)


def test_the_longest_name_wins_at_every_depth() -> None:
    row = {"a": {"b.c": "deep", "b": {"c": "deeper"}}, "a.b": {"c": "shallow"}, "x": {"y.z": ["first", {"k": "last"}]}}
    assert find(row, "a.b.c") == "shallow"
    assert find({"a": row["a"]}, "a.b.c") == "deep"
    assert find(row, "x.y.z.-1.k") == "last"
    assert find(row, "x.y.z.0") == "first"


@pytest.mark.parametrize(
    "path",
    ["", ".", "a", "list.2", "list.-3", "list.1.0", "list.x", "list.", "list.+1", "list.--1", "list.١", "text.0"],
)
def test_a_path_to_nothing(path: str) -> None:
    row = {"list": ["one", 2], "text": "not JSON"}
    assert find(row, path) is None
    assert find(row, "list." + "9" * 5000) is None


def test_a_text_of_json_is_looked_into_only_if_the_path_goes_on() -> None:
    row = {"chosen": json.dumps([{"content": "hello"}]), "plain": "[1]"}
    assert find(row, "chosen.-1.content") == "hello"
    assert find(row, "plain") == "[1]"


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ("question=a,answer=b.-1.c,correction=d", ("a", "b.-1.c", "d")),
        (" correction = d , question = a ", ("a", "answer", "d")),
        ("question=a,b,answer=c=d,correction=e", ("a,b", "c=d", "e")),
        ("answer=my answer", ("question", "my answer", "correction")),
    ],
)
def test_columns_are_parsed(given: str, paths: tuple[str, ...]) -> None:
    assert parse_columns(given) == dict(zip(FIELDS, paths, strict=True))


@pytest.mark.parametrize("given", ["question", "question=", "=a", "prompt=a", "question=a,question=b", ",", "Answer=b"])
def test_columns_that_are_refused(given: str) -> None:
    with pytest.raises(InputError, match="--columns") as caught:
        parse_columns(given)
    assert "question=prompt" in caught.value.do


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "q", "Rejected": "a", "chosen": "c"}, "question=prompt,answer=Rejected,correction=chosen"),
        (
            {"id": 1, "prompt": "q", "rejected": [{"role": "x", "content": "a"}], "chosen": [{"value": "c"}]},
            "question=prompt,answer=rejected.-1.content,correction=chosen.-1.value",
        ),
        ({"x": "1", "y": {"text": "2"}, "z z": "3"}, "'question=x,answer=y.text,correction=z z'"),
        ({"": "1", "\x1b[31m": "2", "x" * 61: "3", "ok": "4"}, "question=ok,answer=COLUMN,correction=COLUMN"),
        ({"instruction": "q", "output": []}, "question=instruction,answer=output,correction=COLUMN"),
    ],
)
def test_a_suggestion_is_copied_as_it_is(row: dict[str, object], said: str) -> None:
    assert suggest_columns(row) == f"--columns {said}"
