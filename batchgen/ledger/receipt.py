"""What was really paid, from the usage of every result line: per step and model, with what was paid for nothing.

One reading of the store answers `status`, the cap, the report and `data/receipt.json`, so that they agree to the cent.
Requests whose model had no known price when they were booked are priced by the list as it is now; where there is still
none, every sum is a lower bound and says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from batchgen.core.dialogue import Step
from batchgen.core.outcomes import Reason, Usage
from batchgen.ledger.rows import UsageTotal
from batchgen.ledger.store import Store
from batchgen.runtime.settings import Settings

RECEIPT_DIGITS = 6  # millionths of a dollar: a single request costs a few of them


class CostSummary(NamedTuple):
    """Where the money of a run is, in USD.

    `estimated` is for every batch that was or is being bought, `reserved` for those in flight or lost, `spent` as
    billed. `unpriced` requests, in flight or billed, have no known price: then all three are lower bounds.
    """

    estimated_usd: float
    reserved_usd: float
    spent_usd: float
    unpriced: int
    unpriced_models: tuple[str, ...]


class Billed(NamedTuple):
    """Requests with the tokens and the USD that they were billed; `unpriced` of them have no known price."""

    requests: int
    usage: Usage
    usd: float
    unpriced: int


NOTHING_BILLED = Billed(0, Usage(), 0.0, 0)


def cost_summary(store: Store, settings: Settings) -> CostSummary:
    """The totals that `status` tells and that `max_usd` is held against."""
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
    """Every bill with its USD; None where tokens were used at a price that nobody knows."""
    return [
        (bill, bill.usd if bill.usd is not None else _price_record(bill, settings)) for bill in store.totals.usage()
    ]


def _price_record(bill: UsageTotal, settings: Settings) -> float | None:
    from batchgen.core.pricing import batch_rate  # here: a store in which everything has its price never needs the list

    if not any(bill.usage):
        return 0.0
    known = batch_rate(bill.model, settings.prices)
    return known.usd(bill.usage) if known else None


def _price_reserved(store: Store, settings: Settings) -> tuple[int, float, set[str]]:
    """Batches reserved without a price: (requests still unpriced, USD of those that have a price by now, models)."""
    requests, usd, models = 0, 0.0, set[str]()
    for model, count, input_tokens, output_ceiling in store.totals.reserved_without_price():
        from batchgen.core.pricing import batch_rate  # here: most stores hold none

        known = batch_rate(model, settings.prices)
        if known is None:
            requests += count
            models.add(model)
        else:
            usd += known.usd(Usage(input=input_tokens, output=output_ceiling))
    return requests, usd, models


# ---------------------------------------------------------------- the receipt


def receipt(store: Store, settings: Settings, steps: Sequence[Step]) -> dict[str, Any]:
    """The receipt of everything billed so far, per step and per model, estimate beside actual.

    `failed_usd` was billed for replies that no turn came from, `superseded_usd` for lines that nobody waited for any
    more (late jobs, strangers); both are part of `usd`. `at_least` says that some price is unknown. Money in flight
    is not billed yet and stands in `status`.
    """
    bills = _with_usd(store, settings)
    estimates = store.totals.estimated_by_position()
    rows = [
        _receipt_row(
            {
                "round": step.round,
                "stage": str(step.stage),
                "estimated_usd": round_usd(estimates.get(step.position, 0.0)),
            },
            [(bill, usd) for bill, usd in bills if bill.position == step.position],
        )
        for step in steps
    ]
    models = list(dict.fromkeys((bill.provider, bill.model) for bill, _ in bills))
    by_model = [
        _receipt_row(
            {"provider": provider, "model": model, **_rate_fields(model, settings)},
            [(bill, usd) for bill, usd in bills if (bill.provider, bill.model) == (provider, model)],
        )
        for provider, model in models
    ]
    whole = _receipt_row({"estimated_usd": round_usd(sum(estimates.values()))}, bills)
    return {"steps": rows, "models": by_model, "total": whole}


def _rate_fields(model: str, settings: Settings) -> dict[str, Any]:
    from batchgen.core.pricing import batch_rate

    known = batch_rate(model, settings.prices)
    if known is None:
        return {"rate": None}
    seen = str(known.read_on) if known.read_on else None
    prices = {name: getattr(known, name) for name in ("input", "cached_input", "output")}
    return {"rate": {**prices, "source": known.source, "seen": seen}}


def _receipt_row(head: Mapping[str, Any], bills: Sequence[tuple[UsageTotal, float | None]]) -> dict[str, Any]:
    """One line of the receipt: `head`, then what these bills come to."""
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
    """USD as a receipt says it. In two steps: the last bit of a sum depends on the order of its terms, and must not
    decide which way half a millionth is rounded.
    """
    return round(round(usd, 2 * RECEIPT_DIGITS), RECEIPT_DIGITS)
