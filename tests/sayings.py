"""Texts made of what is hard about words: scripts, capitals, digits, marks, white space."""

from __future__ import annotations

from hypothesis import strategies as st

PLAIN = ["moss", "Moss", "mossy", "fern", "FERN", "ivy", "12", "1", "x7", "42nd", "_", ",", "-", "\n"]
OTHER = [
    "草莓",
    "草莓酱",
    "・",
    "über",
    "Straße",
    "’",
    "\u0130stanbul",
    "\u212aelvin",
    "\u0663\u0664",
    "\U0001f642",
    "\xff",
    "e\u0301",
]
SNIPPETS = st.sampled_from(PLAIN + OTHER)
SAYINGS = st.lists(st.tuples(SNIPPETS, st.sampled_from(["", " "])), max_size=12).map(
    lambda parts: "".join(map("".join, parts))
)
