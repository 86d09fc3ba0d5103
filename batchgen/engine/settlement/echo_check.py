"""Find the request of a batch that each reply belongs to, by its echo. Pure.

A request fixes its echo in the schema of its reply, so that no other request can have produced a reply with it. A model
that ignores the schema is recognised by its texts: if a tenth of the replies answer their own request, but hold another
echo or none, the echoes of the batch prove nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from batchgen.core.dialogue import echo_of, parse_key
from batchgen.core.outcomes import Reason, Reply
from batchgen.engine.settlement.swap_detection import common_words, word_set

IGNORED_SHARE = 0.1  # so many replies that answer their own request without its echo: the model ignores the schema ...
IGNORED_LEAST = 4  # ... but not fewer than this: two swapped replies of a small batch may seem to answer their requests


class EchoCheck(NamedTuple):
    """The accepted replies of a batch, by what their echoes say. A reply is named by its position in the list.

    `proven` keys have a reply with their own echo. `foreign` replies hold the echo of another request, whose key is the
    value. `unproven` replies hold no echo of the batch, or their own one, which another request of the batch has too.
    Replies under the key of no request are left out.
    """

    accepted: int
    proven: Collection[str]
    foreign: Mapping[int, str]
    unproven: Sequence[int]

    @property
    def may_be_ignored(self) -> bool:
        """Whether so many replies lack their own echo that their texts must be read."""
        return len(self.foreign) + len(self.unproven) >= _least_ignored(self)


def check_echoes(keys: Mapping[str, int], replies: Sequence[Reply]) -> EchoCheck:
    """Compare the echoes of the accepted replies with those of the requests. `keys` are the keys of the batch."""
    numbers = dict(keys)
    for reply in replies:
        if reply.key not in numbers and (parsed := parse_key(reply.key)):
            numbers[reply.key] = parsed.number  # a request whose text came from another batch
    echoes = {key: echo_of(number) for key, number in numbers.items()}
    owners = {echo: key for key, echo in echoes.items()}
    shared = set[str]()
    if len(owners) < len(echoes):
        shared = {echo for echo, count in Counter(echoes.values()).items() if count > 1}
    accepted, proven, foreign, unproven = 0, set[str](), dict[int, str](), list[int]()
    for position, reply in enumerate(replies):
        own = echoes.get(reply.key)
        if reply.reason is not Reason.ACCEPTED or own is None:  # a reply under the key of no request is not used
            continue
        accepted += 1
        if reply.echo not in owners or (reply.echo == own and own in shared):
            unproven.append(position)
        elif reply.echo == own:
            proven.add(reply.key)
        else:
            foreign[position] = owners[reply.echo]
    return EchoCheck(accepted, proven, foreign, unproven)


def are_echoes_ignored(
    found: EchoCheck, replies: Sequence[Reply], requests: Mapping[str, str], swapped: Collection[str]
) -> bool:
    """Return whether the model ignored the echoes.

    `requests` are the ends of the dialogues by key, `swapped` the keys of replies whose words answer another request.
    """
    keys = {position: replies[position].key for position in found.unproven}
    without = sum(key not in swapped and replies[position].echo != _own_echo(key) for position, key in keys.items())
    own, other = _count_fits(found, replies, requests) if found.foreign else (0, 0)
    return without + own >= _least_ignored(found) and without + own > other


def _least_ignored(found: EchoCheck) -> float:
    return max(IGNORED_SHARE * found.accepted, IGNORED_LEAST)


def _own_echo(key: str) -> str:
    parsed = parse_key(key)
    return echo_of(parsed.number) if parsed else ""


def _count_fits(found: EchoCheck, replies: Sequence[Reply], requests: Mapping[str, str]) -> tuple[int, int]:
    """Count the replies with a foreign echo that share more words with their own request, and with the other one."""
    asked = {key: word_set(text) for key, text in requests.items()}
    common = common_words(Counter(chain.from_iterable(asked.values())), len(asked))
    own = other = 0
    for position, owner in found.foreign.items():
        said = word_set(replies[position].text) - common
        here, there = (len(said & asked.get(key, set())) for key in (replies[position].key, owner))
        own, other = own + (here > there), other + (there > here)
    return own, other
