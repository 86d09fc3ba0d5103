"""Find replies under the wrong key by comparing words, for services that swap replies. Pure.

One reply that fits another request better than its own proves little: users ask similar things, and a bad reply fits no
request. Swapped replies form a pattern, though: the request that a reply fits has lost its own reply. A reply counts as
swapped in two cases. Going from each reply to the request that it fits better leads back to the first reply (two were
swapped, three were rotated, ...). Or so many replies fit other requests that the whole batch must be out of order.

A reply that contains the id of another conversation is stronger proof. Real models do not see the id of their request,
but test models often do.

Measured on ten sets of 200 to 775 real English and Chinese pairs: no reply under its own key was flagged, and every set
in random order was found. Of single swapped pairs 3 % (short questions) to 87 % (corrections) were found, so most short
ones are missed. Of 3,000 batches of up to 120 replies from these sets, three had a few replies flagged wrongly.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from math import ceil, log, sqrt
from operator import add
from string import ascii_letters

from batchgen.core.text import PAIRED_CHARACTERS

WHOLE_BATCH_SHARE = 0.01  # if more than this share is swapped, the whole batch is rejected ...
WHOLE_BATCH_LEAST = 3  # ... but only above this count: so many may form a cycle by accident

COMMON_SHARE = 0.02  # a word in more than this share of the texts is common, and distinguishes none ...
COMMON_LEAST = 3  # ... but a word in at most this many texts (or half of them, if fewer) is not common
ENOUGH_OWN_WORDS = 3  # a reply with this many distinctive words of its own request is under the right key
SMALL_BATCH = 20  # replies; in a smaller batch one such word is enough
SAMPLE = 500  # replies from which the common words are learned
MIN_SHARED_WORDS = 3  # distinctive words that a reply must share with another request to fit it
MIN_SIMILARITY = 0.05  # least cosine (0 to 1) that counts as a fit; half of all replies have over 0.1 with their own
MIN_RATIO_TO_OWN = 4.0  # the cosine with the other request, divided by that with its own, must be at least this
MIN_RATIO_TO_SECOND = 1.3  # and divided by that with the second best, at least this
MAX_REQUEST_SIMILARITY = 0.06  # replies to requests with at least this cosine cannot be told apart
OUT_OF_ORDER_SHARE = 0.12  # of a batch in order at most 0.05 seem to fit elsewhere, in random order at least 0.17
OUT_OF_ORDER_LEAST = 6  # replies
COMPARED_CHARACTERS = 2_000  # of a text that are compared: the last of a request, the first of a reply

_ID_PREFIX = "r1-"  # every conversation's id begins with it
_ID_PATTERN = re.compile(_ID_PREFIX + r"\d+")
_CJK_RUNS = re.compile(f"([{PAIRED_CHARACTERS}]+)")
_WORDS = re.compile(r"[^\W\d_]{4,}|\d{2,}")
_WORD_LEAST, _NUMBER_LEAST = 4, 2
_LETTERS = bytes(ord(chr(byte).lower()) if chr(byte) in ascii_letters else ord(" ") for byte in range(256))
_DIGITS = bytes(byte if byte in b"0123456789" else ord(" ") for byte in range(256))
_NO_DIGITS = bytes(byte for byte in range(256) if byte not in b"0123456789")
_ASCII = bytes(range(0x80))


def word_set(text: str) -> set[str]:
    """Return the words of a text in lower case.

    A word is a run of at least four letters, a number of at least two digits, or a pair of adjacent CJK characters.
    """
    plain = _to_ascii(text)
    if plain is not None:
        return _ascii_words(plain)
    parts = _CJK_RUNS.split(text)
    rest, runs = " ".join(parts[::2]).lower(), parts[1::2]
    plain = _to_ascii(rest)
    found = set(_WORDS.findall(rest)) if plain is None else _ascii_words(plain)
    for run in runs:
        found.update(map(add, run, run[1:]))
    return found


def _to_ascii(text: str) -> bytes | None:
    """Return the text as ASCII, with `?` for any other character; None if one of those can be part of a word."""
    if text.isascii():
        return text.encode()
    beyond = text.encode(errors="replace").translate(None, _ASCII).decode()
    if any(map(str.isalnum, beyond)) or _CJK_RUNS.search(beyond):
        return None
    return text.encode("ascii", "replace")


def _ascii_words(text: bytes) -> set[str]:
    """Return the words of an ASCII text."""
    # Replacing all but letters by blanks and splitting is four times as fast as a regular expression.
    found = {word for word in text.translate(_LETTERS).decode().split() if len(word) >= _WORD_LEAST}
    if text.translate(None, _NO_DIGITS):
        found.update(number for number in text.translate(_DIGITS).decode().split() if len(number) >= _NUMBER_LEAST)
    return found


def find_swapped_replies(requests: Mapping[str, str], replies: Mapping[str, str]) -> dict[str, str]:
    """Map each key whose reply belongs to another request to the key that the reply fits.

    `requests` and `replies` map a key to a text. A key is the id of a conversation, or begins with that id and a dot.
    """
    said = {key: text[:COMPARED_CHARACTERS] for key, text in replies.items() if key in requests}
    return _swapped_by_id(requests, said) | _swapped_by_words(requests, said)


def _swapped_by_id(keys: Collection[str], said: Mapping[str, str]) -> dict[str, str]:
    """Map the replies that name one other conversation of the batch, and not their own, to its key."""
    owners = {key.partition(".")[0]: key for key in keys}
    named = {
        key: {owners[name] for name in owners.keys() & _ID_PATTERN.findall(said[key])}
        for key in said
        if _ID_PREFIX in said[key]
    }
    own = sum(key in names for key, names in named.items())
    others = {key: next(iter(names)) for key, names in named.items() if len(names) == 1 and key not in names}
    # An id that several replies name proves nothing: only one of them can belong to it.
    once = {other for other, count in Counter(others.values()).items() if count == 1}
    elsewhere = {key: other for key, other in others.items() if other in once}
    return elsewhere if own * 2 >= len(said) else _drop_coincidences(elsewhere, len(said))


def _swapped_by_words(requests: Mapping[str, str], said: Mapping[str, str]) -> dict[str, str]:
    """Map the replies whose words fit another request to its key."""
    asked = {key: text[-COMPARED_CHARACTERS:] for key, text in requests.items()}
    # Most replies clearly fit their own request. Only the others are compared, with the requests that may lack a reply.
    away = _unlike_own_request(said, asked)
    lost = _RequestIndex({key: text for key, text in asked.items() if key in away or key not in said})
    found = _drop_coincidences(lost.find_better_matches(away), len(said))
    if not found:
        return {}
    every = _RequestIndex(asked)
    return {key: fits for key, fits in found.items() if not every.are_similar(key, fits)}


def _drop_coincidences(elsewhere: Mapping[str, str], replies: int) -> dict[str, str]:
    """Return the part of `elsewhere` that is not explained by accident: all of it, or its cycles."""
    # Different requests are counted: if one text stands under every key, it fits one request at most.
    if len(set(elsewhere.values())) >= max(OUT_OF_ORDER_SHARE * replies, OUT_OF_ORDER_LEAST):
        return dict(elsewhere)
    return {key: fits for key, fits in elsewhere.items() if key in _follow_swaps(elsewhere, fits)}


def _unlike_own_request(said: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, set[str]]:
    """Map the replies with too few distinctive words of their own request to all their words."""
    # In a small batch a reply hardly shares a distinctive word by accident, so that one is enough.
    least = ENOUGH_OWN_WORDS if len(said) >= SMALL_BATCH else 1
    sample = list(said.values())[:: ceil(len(said) / SAMPLE) or 1]
    common = common_words(Counter(chain.from_iterable(map(word_set, sample))), len(sample))
    away = {}
    for key, text in said.items():
        found = word_set(text)
        if not _fits_own_request(asked[key], found - common, least):
            away[key] = found
    return away


def common_words(frequency: Mapping[str, int], texts: int) -> set[str]:
    """Return the words in too many of the texts to be distinctive: {word: number of texts}."""
    limit = max(min(COMMON_LEAST, texts // 2), COMMON_SHARE * texts)
    return {word for word, count in frequency.items() if count > limit}


def _fits_own_request(asked: str, said: set[str], least: int) -> bool:
    """Return whether a request has at least `least` of the words."""
    # Most words are in lower case already, so that most requests need not be converted.
    return _contains_words(asked, said, least) or (
        (low := asked.lower()) != asked and _contains_words(low, said, least)
    )


def _contains_words(text: str, said: set[str], least: int) -> bool:
    return next(islice((word for word in said if word in text), least - 1, None), None) is not None


def _follow_swaps(elsewhere: Mapping[str, str], key: str) -> Iterator[str]:
    """Yield `key`, the key that its reply fits better, and so on; each cycle once at most."""
    for _ in range(len(elsewhere)):
        yield key
        if key not in elsewhere:
            return
        key = elsewhere[key]


class _RequestIndex:
    """Requests as weighted sets of words."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        # A whole batch may be in memory: equal words share one object, and a tuple takes a fifth of the space of a set.
        once: dict[str, str] = {}
        self._asked = dict[str, tuple[str, ...]]()
        for key, text in texts.items():
            words = word_set(text)
            self._asked[key] = tuple(map(once.setdefault, words, words))
        self._frequency = Counter(chain.from_iterable(self._asked.values()))
        self._lengths = dict[str, float]()  # the vector lengths of the requests that were compared

    def find_better_matches(self, replies: Mapping[str, set[str]]) -> dict[str, str]:
        """Map the replies (key to words) that fit another request better than their own to its key."""
        distinctive = set().union(*replies.values()) - common_words(self._frequency, len(self._asked))
        owners: dict[str, list[str]] = {}  # a distinctive word of the replies: the requests that have it
        for key, words in self._asked.items():
            for word in distinctive.intersection(words):
                owners.setdefault(word, []).append(key)
        found = {}
        for key, said in replies.items():
            near = _candidates(key, [owners[word] for word in said if word in owners])
            if near and (fits := self._better_match(key, said, near)) is not None:
                found[key] = fits
        return found

    def _better_match(self, key: str, said: set[str], near: Collection[str]) -> str | None:
        """Return the one request of `near` that the reply under `key` fits clearly better than its own, or None."""
        length = self._vector_length(said)
        best, *others = sorted(((self._similarity(other, said, length), other) for other in near), reverse=True)
        if best[0] < max(MIN_SIMILARITY, MIN_RATIO_TO_OWN * self._similarity(key, said, length)) or (
            others and others[0][0] * MIN_RATIO_TO_SECOND > best[0]
        ):
            return None
        return best[1]

    def are_similar(self, one: str, other: str) -> bool:
        return self._similarity(one, set(self._asked[other]), self._length(other)) >= MAX_REQUEST_SIMILARITY

    def _similarity(self, key: str, said: set[str], length: float) -> float:
        """Return the cosine of the angle between a request and a reply (or another request)."""
        common = sum(map(self._weight, said.intersection(self._asked[key])))
        return common / (self._length(key) * length) if common else 0.0

    def _length(self, key: str) -> float:
        if key not in self._lengths:
            self._lengths[key] = self._vector_length(self._asked[key])
        return self._lengths[key]

    def _vector_length(self, words: Iterable[str]) -> float:
        return sqrt(sum(map(self._weight, words)))

    def _weight(self, word: str) -> float:
        """Return the log inverse frequency of a word, squared because the cosine multiplies two vectors."""
        return log((len(self._asked) + 1) / (self._frequency[word] or 1)) ** 2


def _candidates(key: str, owned: Collection[Sequence[str]]) -> list[str]:
    """Return up to five requests other than `key` that share enough distinctive words with a reply, the best first.

    `owned` has the requests that have a word, for each distinctive word of the reply.
    """
    shared = Counter(chain.from_iterable(owned))
    del shared[key]
    if max(shared.values(), default=0) < MIN_SHARED_WORDS:  # true of most replies; sorting below costs more
        return []
    return [other for other, count in shared.most_common(5) if count >= MIN_SHARED_WORDS]
