"""Look at the result rows of a rehearsal: keys, order, fields, token counts, echoes, limits. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from batchgen.core.outcomes import Reason
from batchgen.core.wording import pluralize
from batchgen.providers.assumptions.assumption import Finding, Seen, broken, held, unseen
from batchgen.providers.assumptions.results import ResultRow
from batchgen.providers.base import JobState

ANSWERED = (Reason.ACCEPTED, Reason.TRUNCATED, Reason.MALFORMED, Reason.EMPTY)  # rows of a model that wrote
SHOWN_MEMBERS = 12


def _rows(seen: Seen) -> Iterator[ResultRow]:
    for batch in seen.rows:
        yield from batch.rows


def _answered(seen: Seen) -> list[ResultRow]:
    return [row for row in _rows(seen) if row.reply.reason in ANSWERED and row.request]


def rows_have_keys(seen: Seen) -> Finding:
    """Whether each request of a job that succeeded has exactly one row, under its own key."""
    jobs = seen.notes.jobs
    whole = [batch for batch in seen.rows if (job := jobs.get(batch.remote_id)) and job.ended == JobState.SUCCEEDED]
    if not whole:
        return unseen()
    for batch in whole:
        came = Counter(row.reply.key for row in batch.rows)
        missing = len(set(batch.keys) - came.keys())
        if missing:
            return broken(f"{missing} of {pluralize(len(batch.keys), 'request')} of a batch without a row")
        if foreign := came.keys() - set(batch.keys):
            return broken(f"{pluralize(len(foreign), 'row')} under the key of no request")
        if max(came.values()) > 1:
            return broken("two rows under one key")
    return held(f"{sum(len(batch.keys) for batch in whole)} requests, one row each")


def row_order(seen: Seen) -> Finding:
    """In which order rows come. Any order is read."""
    several = [batch for batch in seen.rows if len(batch.keys) > 1]
    if not several:
        return unseen()
    same = sum([row.reply.key for row in batch.rows] == list(batch.keys) for batch in several)
    return held(f"as the requests in {same} of {pluralize(len(several), 'file')}")


def rows_are_readable(seen: Seen) -> Finding:
    """Whether each row has the members that this program reads. What was seen are the names of all members."""
    rows = list(_rows(seen))
    if not rows:
        return unseen()
    unreadable = [row for row in rows if row.reply.reason is Reason.UNREADABLE]
    if unreadable:
        return broken(f"{pluralize(len(unreadable), 'row')}: {unreadable[0].reply.detail}")
    failed = Counter(row.reply.reason.value for row in rows if row.reply.reason is not Reason.ACCEPTED)
    leaves = sorted(set().union(*(_top_members(row) for row in rows)))
    words = ", ".join(leaves[:SHOWN_MEMBERS]) + (", ..." if len(leaves) > SHOWN_MEMBERS else "")
    others = "".join(f"; {count} {reason}" for reason, count in failed.items())
    return held(f"{words}{others}")


def _top_members(row: ResultRow) -> set[str]:
    """Return the members down to the level at which an answer begins."""
    return {name.removeprefix("response.").removeprefix("body.") for name in row.members if _level(name) == 1}


def _level(name: str) -> int:
    return name.removeprefix("response.body.").removeprefix("response.").count(".") + 1


def finish_is_known(seen: Seen) -> Finding:
    """Whether the reason why a reply ended is in the table."""
    rows = list(_rows(seen))
    unknown = [row.reply.detail for row in rows if row.reply.reason is Reason.UNKNOWN_FINISH]
    if unknown:
        return broken(unknown[0])
    return held(f"in {pluralize(len(rows), 'row')}") if rows else unseen()


def json_is_kept(seen: Seen) -> Finding:
    """Whether replies for which a JSON schema was sent are such JSON."""
    rows = [row for row in _answered(seen) if row.request and row.request.fields]
    wrong = [row.reply.detail for row in rows if row.reply.reason is Reason.MALFORMED]
    if wrong:
        return broken(f"{len(wrong)} of {len(rows)} replies: {wrong[0]}")
    if not rows and seen.rows:
        return unseen("no JSON was asked for")
    return held(f"{len(rows)} replies") if rows else unseen()


def usage_is_told(*names: str) -> Callable[[Seen], Finding]:
    """Return the check whether each answered row has these token counts."""

    def look(seen: Seen) -> Finding:
        rows = _answered(seen)
        lacking = {name for row in rows for name in names if not isinstance(row.usage.get(name), int)}
        if lacking:
            return broken(f"rows without {', '.join(sorted(lacking))}: what they cost is unknown")
        members = sorted({name for row in rows for name in row.usage})
        return held(", ".join(members)) if rows else unseen()

    return look


def usage_adds_up(total: str, *parts: str) -> Callable[[Seen], Finding]:
    """Return the check whether the count `total` is the sum of `parts`: so it is known what includes what."""

    def look(seen: Seen) -> Finding:
        rows = [row.usage for row in _answered(seen) if isinstance(row.usage.get(total), int)]
        wrong = [usage for usage in rows if usage[total] != sum(_count(usage, part) for part in parts)]
        if wrong:
            return broken(f"{total} {wrong[0][total]}, but {' + '.join(parts)} is another number")
        return held(f"{total} = {' + '.join(parts)}") if rows else unseen()

    return look


def _count(usage: Mapping[str, object], name: str) -> int:
    value = usage.get(name)
    return value if isinstance(value, int) else 0


def no_thoughts(seen: Seen) -> Finding:
    """Whether the model thought, although the requests switch that off, and what it cost."""
    rows = _answered(seen)
    tokens = sum(row.reply.usage.thoughts for row in rows)
    if not tokens:
        return held(f"no thought tokens in {pluralize(len(rows), 'row')}") if rows else unseen()
    share = tokens / max(sum(row.reply.usage.output for row in rows), 1)
    rate = next(filter(None, seen.rates.values()), None)
    cost = f", ${tokens * rate.output / 1e6:.6f}" if rate else ""
    return broken(f"{tokens} thought tokens, {share:.0%} of what is billed as output{cost}")


def model_comes_back(seen: Seen) -> Finding:
    """Whether rows name the model that was asked."""
    named = {
        (batch.model, row.reply.model) for batch in seen.rows for row in batch.rows if row.reply.reason in ANSWERED
    }
    for asked, told in sorted(named):
        if told != asked:
            return broken(f"{asked} came back as {told}" if told else "no row names its model")
    return held(", ".join(sorted({told for _, told in named}))) if named else unseen()


def echo_is_kept(seen: Seen) -> Finding:
    """Whether each reply repeats the two characters that its schema fixes."""
    rows = [row for row in _answered(seen) if row.own_echo and row.reply.reason is Reason.ACCEPTED]
    kept = sum(row.reply.echo == row.own_echo for row in rows)
    if not rows:
        return unseen()
    words = f"in {kept} of {len(rows)} replies"
    return held(words) if kept == len(rows) else broken(words)


def limit_is_kept(seen: Seen) -> Finding:
    """Whether no reply is longer than its limit of output tokens."""
    pairs = [(row.reply.usage.output, row.request.max_output_tokens) for row in _answered(seen) if row.request]
    over = [pair for pair in pairs if pair[0] > pair[1] > 0]
    if over:
        return broken(f"{over[0][0]} tokens, although {over[0][1]} were the limit")
    most = max(pairs, default=None)
    return held(f"the longest has {most[0]} of {most[1]} tokens") if most else unseen()


def parameters_are_taken(seen: Seen) -> Finding:
    """Whether no row was refused for its parameters. Whether a temperature has an effect, two replies cannot show."""
    rows = list(_rows(seen))
    refused = [row.reply.detail for row in rows if row.reply.reason is Reason.INVALID_REQUEST]
    if refused:
        return broken(refused[0])
    return held(f"{pluralize(len(rows), 'request')}, none refused") if rows else unseen()


def blocked_prompt(seen: Seen) -> Finding:
    """How the row of a blocked prompt looks, and whether it is billed."""
    blocked = [row.reply for row in _rows(seen) if row.reply.reason is Reason.BLOCKED_PROMPT]
    if not blocked:
        return unseen("no prompt was blocked")
    words = f"{pluralize(len(blocked), 'row')}: {blocked[0].detail}, {blocked[0].usage.input} prompt tokens"
    return held(words) if all(reply.usage.input for reply in blocked) else broken(words)
