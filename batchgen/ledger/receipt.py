"""The cost of a run from the usage of every result line: by step and by model, failed and superseded replies apart.

`status`, `max_usd`, the report and `data/receipt.json` all use these sums, so that they agree to the cent. Requests
whose model had no known price when they were settled are priced with the current price list. If the list has no price
either, every sum is a lower bound and is marked as one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.core.outcomes import Reason, Usage
from batchgen.ledger.rows import UsageTotal
from batchgen.ledger.store import Store
from batchgen.runtime.settings import Settings

RECEIPT_DIGITS = 6  # millionths of a dollar: a single request costs a few of them


class CostSummary(NamedTuple):
    """The cost of a run in USD.

    `estimated_usd` covers every batch that was bought or is being bought, `reserved_usd` the batches that are in flight
    or lost, `spent_usd` what was billed. `unpriced` counts the requests without a known price, in flight or billed. If
    there are any, all three sums are lower bounds.
    """

    estimated_usd: float
    reserved_usd: float
    spent_usd: float
    unpriced: int
    unpriced_models: tuple[str, ...]


class Billed(NamedTuple):
    """The tokens and USD billed for some requests; `unpriced` of the requests have no known price."""

    requests: int
    usage: Usage
    usd: float
    unpriced: int


NOTHING_BILLED = Billed(0, Usage(), 0.0, 0)


def cost_summary(store: Store, settings: Settings) -> CostSummary:
    """Return the sums that `status` shows and that are compared with `max_usd`."""
    estimated, reserved = store.totals.estimated_and_reserved_usd()
    bills = _with_usd(store, settings)
    open_unpriced, open_usd, models = _price_reserved(store, settings)
    spent = sum(usd for _, usd in bills if usd is not None)
    unknown = [bill for bill, usd in bills if usd is None]
    return CostSummary(
        estimated_usd=estimated,
        reserved_usd=reserved + open_usd,
        spent_usd=spent,
        unpriced=open_unpriced + sum(bill.requests for bill in unknown),
        unpriced_models=tuple(sorted({*models, *(bill.model for bill in unknown)})),
    )


def _with_usd(store: Store, settings: Settings) -> list[tuple[UsageTotal, float | None]]:
    """Pair each usage total with its USD, None if it has tokens and its model has no known price."""
    return [
        (bill, bill.usd if bill.usd is not None else _price_record(bill, settings)) for bill in store.totals.usage()
    ]


def _price_record(bill: UsageTotal, settings: Settings) -> float | None:
    from batchgen.core.pricing import batch_rate  # here: only totals without USD need the list

    if not any(bill.usage):
        return 0.0
    known = batch_rate(bill.provider, bill.model, settings.prices)
    return known.usd(bill.usage) if known else None


def _price_reserved(store: Store, settings: Settings) -> tuple[int, float, set[str]]:
    """Price the open batches that had no price when planned.

    Returns (requests still without a price, USD of those that have a price now, models still without a price).
    """
    requests, usd, models = 0, 0.0, set[str]()
    for provider, model, count, input_tokens, output_ceiling in store.totals.reserved_without_price():
        from batchgen.core.pricing import batch_rate  # here: most stores have no such batch

        known = batch_rate(provider, model, settings.prices)
        if known is None:
            requests += count
            models.add(model)
        else:
            usd += known.usd(Usage(input=input_tokens, output=output_ceiling))
    return requests, usd, models


# ---------------------------------------------------------------- the receipt


def receipt(store: Store, settings: Settings) -> dict[str, Any]:
    """Return the receipt of everything billed so far, by step and by model, each with its estimate or its rates.

    `failed_usd` was billed for replies without a usable text. `superseded_usd` was billed for result lines that were
    not needed, for example of a late or duplicate job. Both are part of `usd`. `at_least` is true if a price is
    unknown. Batches in flight are not billed yet; `status` shows their cost.
    """
    bills = _with_usd(store, settings)
    estimates = store.totals.estimated_by_position()
    rows = []
    for step in store.bought_steps(settings.rounds):
        mine = [(bill, usd) for bill, usd in bills if bill.position == step.position]
        head = {
            "round": step.round,
            "stage": str(step.stage),
            "models": sorted({f"{bill.provider}:{bill.model}" for bill, _ in mine}),
            "estimated_usd": round_usd(estimates.get(step.position, 0.0)),
        }
        rows.append(_receipt_row(head, mine))
    models = list(dict.fromkeys((bill.provider, bill.model) for bill, _ in bills))
    by_model = [
        _receipt_row(
            {"provider": provider, "model": model, **_rate_fields(provider, model, settings)},
            [(bill, usd) for bill, usd in bills if (bill.provider, bill.model) == (provider, model)],
        )
        for provider, model in models
    ]
    whole = _receipt_row({"estimated_usd": round_usd(sum(estimates.values()))}, bills)
    return {"steps": rows, "models": by_model, "total": whole}


def _rate_fields(provider: str, model: str, settings: Settings) -> dict[str, Any]:
    from batchgen.core.pricing import batch_rate

    known = batch_rate(provider, model, settings.prices)
    if known is None:
        return {"rate": None}
    seen = str(known.read_on) if known.read_on else None
    prices = {name: getattr(known, name) for name in ("input", "cached_input", "output")}
    return {"rate": {**prices, "source": known.source, "seen": seen}}


def _receipt_row(head: Mapping[str, Any], bills: Sequence[tuple[UsageTotal, float | None]]) -> dict[str, Any]:
    """Return one row of the receipt: the fields of `head`, then the sums over `bills`."""
    accepted = _sum_billed(bills, {Reason.ACCEPTED})
    superseded = _sum_billed(bills, {Reason.SUPERSEDED})
    failed = _sum_billed(bills, set(Reason) - {Reason.ACCEPTED, Reason.SUPERSEDED})
    every = _sum_billed(bills, set(Reason))
    return {
        **head,
        "usd": round_usd(every.usd),
        "accepted": accepted.requests,
        "accepted_usd": round_usd(accepted.usd),
        "failed": failed.requests,
        "failed_usd": round_usd(failed.usd),
        "superseded": superseded.requests,
        "superseded_usd": round_usd(superseded.usd),
        "input_tokens": every.usage.input,
        "cached_tokens": every.usage.cached,
        "output_tokens": every.usage.output,
        "thought_tokens": every.usage.thoughts,
        "unpriced_requests": every.unpriced,
        "at_least": bool(every.unpriced),
    }


def _sum_billed(bills: Iterable[tuple[UsageTotal, float | None]], reasons: set[Reason]) -> Billed:
    found = NOTHING_BILLED
    for bill, usd in bills:
        if bill.reason in reasons:
            found = Billed(
                found.requests + bill.requests,
                Usage(*(a + b for a, b in zip(found.usage, bill.usage, strict=True))),
                found.usd + (usd or 0.0),
                found.unpriced + (bill.requests if usd is None else 0),
            )
    return found


def round_usd(usd: float) -> float:
    """Round USD to millionths.

    Rounds twice, first to 12 digits, so that the order in which floats were added cannot change the last digit.
    """
    return round(round(usd, 2 * RECEIPT_DIGITS), RECEIPT_DIGITS)
