"""Sums over the ledger: requests, texts, tokens and money, added up by the database."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from batchgen.core.dialogue import Step
from batchgen.core.outcomes import Reason, Usage
from batchgen.ledger import queries
from batchgen.ledger.rows import UsageTotal

BEYOND_LAST_BATCH = 2**62  # larger than every batch number


class Totals:
    """Adds up the ledger. Changes nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    # ---- quotas and money

    def enqueued(self, provider: str, model: str, *, before: int) -> tuple[int, int]:
        """Return (batches of the provider, estimated input tokens of the model) that are there or will be.

        Gemini limits the batches of a project, and the tokens of each model of a project (provider page, limits). Of
        the batches that were not created yet, only those with a number below `before` count.
        """
        query = {"provider": provider, "model": model, "before": before}
        batches, tokens = self._connection.execute(queries.ENQUEUED, query).fetchone()
        return batches, tokens

    def estimated_and_reserved_usd(self) -> tuple[float, float]:
        """Return (estimated USD of all batches but refused and abandoned ones, reserved USD of open or lost ones).

        Batches without a known price are left out.
        """
        estimated, reserved = self._connection.execute(queries.ESTIMATED_AND_RESERVED_USD).fetchone()
        return float(estimated), float(reserved)

    def reserved_without_price(self) -> list[tuple[str, str, int, int, int]]:
        """List (provider, model, requests, input tokens, output ceiling) of open batches planned without a price."""
        return list(self._connection.execute(queries.RESERVED_WITHOUT_PRICE))

    def usage(self) -> list[UsageTotal]:
        """List the tokens and USD billed by step, model and reason.

        Requests that had no price when they were settled have rows of their own.
        """
        rows = self._connection.execute(queries.USAGE_TOTALS)
        return [
            UsageTotal(position, provider, model, Reason(reason), requests, usd, Usage(*tokens))
            for position, provider, model, reason, requests, usd, *tokens in rows
        ]

    def estimated_by_position(self) -> dict[int, float]:
        """Map each position to the USD that its collected batches were expected to cost."""
        return dict(self._connection.execute(queries.ESTIMATED_BY_POSITION))

    def output_of_accepted(self, positions: Sequence[int], *, follow_up: bool) -> tuple[int, int]:
        """Return (accepted requests, output tokens billed for them) over some positions.

        `follow_up`: only of replies with the next round's question, or only of the others.
        """
        found = [
            self._connection.execute(
                queries.OUTPUT_OF_ACCEPTED, {"position": position, "follow_up": follow_up}
            ).fetchone()
            for position in positions
        ]
        return sum(requests for requests, _ in found), sum(tokens for _, tokens in found)

    # ---- conversations

    def counts_by_position(self) -> tuple[dict[tuple[int, str], int], dict[int, int], dict[int, int]]:
        """Return requests by (position, batch state), and accepted texts and rejected conversations by position."""
        rows = self._connection.execute(queries.BATCH_TOTALS)
        by_state = {(position, state): requests for position, state, requests in rows}
        accepted: dict[int, int] = {}
        for position, follow_up, requests in self._connection.execute(queries.ACCEPTED_BY_POSITION):
            for brought in range(position, position + 1 + follow_up):
                accepted[brought] = accepted.get(brought, 0) + requests
        return by_state, accepted, dict(self._connection.execute(queries.REJECTED_BY_POSITION))

    def settled_at(self, position: int) -> tuple[int, int]:
        """Return (accepted texts, rejected conversations) of one position."""
        (accepted,) = self._connection.execute(queries.ACCEPTED_AT, {"position": position}).fetchone()
        (rejected,) = self._connection.execute(queries.REJECTED_AT, {"position": position}).fetchone()
        return accepted, rejected

    def rejected(self) -> int:
        """Count the rejected conversations, without rejected judgements."""
        return int(self._connection.execute(queries.REJECTED_COUNT).fetchone()[0])

    def pending_retries(self, step: Step) -> int:
        """Count the conversations that are ready for `step` and were asked there before."""
        return int(self._connection.execute(queries.PENDING_RETRIES, {"position": step.position}).fetchone()[0])

    def rejection_reasons(self, position: int) -> dict[str, int]:
        """Count the conversations rejected at `position` by reason."""
        return dict(self._connection.execute(queries.REJECTION_REASONS, {"position": position}))
