"""Does a reply stand under the right key? A check by content, for services that mix up answers. Pure.

A reply is misplaced when it shares no distinctive word with its own request but several with exactly one other request
of the same batch. Words that many requests share say nothing; a reply that fits nobody is left alone: it may merely be
bad, and that is not this check's business.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

COMMON_SHARE = 0.02  # a word in more than this share of the requests does not distinguish them (at least COMMON_LEAST)
COMMON_LEAST = 3
SHARED_LEAST = 3  # distinctive words that a reply must share with a foreign request
WHOLE_BATCH_SHARE = 0.01  # from here on no key of the batch is to be believed

_WORDS = re.compile(r"[^\W\d_]{4,}|\d{2,}|[㐀-鿿]{2}")


def words(text: str) -> set[str]:
    """Content words: runs of four or more letters, numbers, and pairs of CJK characters."""
    return set(_WORDS.findall(text.lower()))


def misplaced(requests: Mapping[str, str], replies: Mapping[str, str]) -> dict[str, str]:
    """Keys whose reply belongs to another request: {key: the key it fits}. Both maps are key -> text."""
    asked = {key: words(text) for key, text in requests.items()}
    frequency = Counter(word for found in asked.values() for word in found)
    limit = max(COMMON_LEAST, COMMON_SHARE * len(asked))
    owners: dict[str, list[str]] = {}
    for key, found in asked.items():
        for word in found:
            if frequency[word] <= limit:
                owners.setdefault(word, []).append(key)
    wrong = {}
    for key, text in replies.items():
        said = words(text)
        if said & asked.get(key, said):
            continue
        if fits := _owner(said, owners):
            wrong[key] = fits
    return wrong


def _owner(said: set[str], owners: Mapping[str, list[str]]) -> str | None:
    """The one request that shares clearly more distinctive words with a reply than any other."""
    shared = Counter(owner for word in said for owner in owners.get(word, ()))
    best = shared.most_common(2)
    if not best or best[0][1] < SHARED_LEAST or (len(best) > 1 and best[1][1] * 2 > best[0][1]):
        return None
    return best[0][0]
