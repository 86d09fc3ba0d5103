"""`submit --dry-run`: what would be sent, for people and for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.wording import counted
from batchgen.engine.session import Session
from batchgen.engine.submission import request_files


class Preview(NamedTuple):
    """What a submit would send as one batch (`submit --dry-run`)."""

    step: Step
    attempt: int
    provider: str
    model: str
    requests: int
    bytes: int
    input_tokens: int
    estimated_usd: float | None
    first_request: str


def preview(session: Session, steps: Sequence[Step]) -> list[Preview]:
    """The batches that `submit` would create for `steps`. Sends nothing, writes nothing."""
    found = []
    for step in steps:
        provider = session.provider(step.stage)
        for tried in session.store.ready_attempts(step):
            after = 0
            while shard := request_files.shard(session, step, tried, after=after):
                after = max(row.number for row in (*shard.rows, *shard.too_large))
                if shard.rows:
                    found.append(
                        Preview(
                            step,
                            shard.attempt,
                            provider.name,
                            session.model(provider),
                            len(shard.rows),
                            shard.size,
                            shard.input_tokens,
                            shard.estimated_usd,
                            shard.first_line.decode(),
                        )
                    )
    return found


def describe(previews: Sequence[Preview], *, show_request: bool) -> tuple[dict[str, Any], str]:
    """(JSON value, text) of what a submit would send. An unknown price is said, never counted as nothing."""
    known = [one.estimated_usd for one in previews if one.estimated_usd is not None]
    value: dict[str, Any] = {
        "batches": [_record(one) for one in previews],
        "estimated_usd": sum(known) if len(known) == len(previews) else None,
    }
    lines = [_line(one) for one in previews]
    if show_request:
        lines += ["", *(f"first request: {one.first_request}" for one in previews)]
    if not previews:
        return value, "Nothing is ready; nothing would be sent."
    total = "unknown" if value["estimated_usd"] is None else f"${value['estimated_usd']:,.4f}"
    return value, "\n".join([*lines, f"estimated: {total}. Nothing was sent (--dry-run)."])


def _line(one: Preview) -> str:
    price = "price unknown" if one.estimated_usd is None else f"about ${one.estimated_usd:,.4f}"
    return (
        f"{one.step}: {counted(one.requests, 'request')} to {one.provider} {one.model}, {one.bytes:,} bytes,"
        f" {one.input_tokens:,} input tokens, {price}"
    )


def _record(one: Preview) -> dict[str, Any]:
    rest = {name: value for name, value in one._asdict().items() if name != "step"}
    return {"round": one.step.round, "stage": one.step.stage, **rest}
