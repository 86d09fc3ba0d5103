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


class Money(NamedTuple):
    """Where the money of a run is, in USD.

    `estimated` is for every batch that was or is being bought, `reserved` for those in flight or lost, `spent` as
    billed. `unpriced` requests, in flight or billed, have no known price: then all three are lower bounds.
    """

    estimated: float
    reserved: float
    spent: float
    unpriced: int
    unpriced_models: tuple[str, ...]


class Spent(NamedTuple):
    """Requests with the tokens and the USD that they were billed; `unpriced` of them have no known price."""

    requests: int
    usage: Usage
    usd: float
    unpriced: int


NOTHING = Spent(0, Usage(), 0.0, 0)


def money(store: Store, settings: Settings) -> Money:
    """The totals that `status` tells and that `max_usd` is held against."""
    estimated, reserved = store.totals.estimated_and_reserved_usd()
    bills = _priced(store, settings)
    open_unpriced, open_usd, models = _reserved_later(store, settings)
    spent = sum(usd for _, usd in bills if usd is not None)
    unknown = [bill for bill, usd in bills if usd is None]
    return Money(
        estimated=estimated,
        reserved=reserved + open_usd,
        spent=spent,
        unpriced=open_unpriced + sum(bill.requests for bill in unknown),
        unpriced_models=tuple(sorted({*models, *(bill.model for bill in unknown)})),
    )


def _priced(store: Store, settings: Settings) -> list[tuple[UsageTotal, float | None]]:
    """Every bill with its USD; None where tokens were used at a price that nobody knows."""
    return [(bill, bill.usd if bill.usd is not None else _price(bill, settings)) for bill in store.totals.usage()]


def _price(bill: UsageTotal, settings: Settings) -> float | None:
    from batchgen.core.pricing import rate  # here: a store in which everything has its price never needs the list

    if not any(bill.usage):
        return 0.0
    known = rate(bill.model, settings.prices)
    return known.usd(bill.usage) if known else None


def _reserved_later(store: Store, settings: Settings) -> tuple[int, float, set[str]]:
    """Batches reserved without a price: (requests still unpriced, USD of those that have a price by now, models)."""
    requests, usd, models = 0, 0.0, set[str]()
    for model, count, input_tokens, output_ceiling in store.totals.reserved_without_price():
        from batchgen.core.pricing import rate  # here: most stores hold none

        known = rate(model, settings.prices)
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
    bills = _priced(store, settings)
    estimates = store.totals.estimated_by_position()
    rows = [
        _record(
            {
                "round": step.round,
                "stage": str(step.stage),
                "estimated_usd": millionths(estimates.get(step.position, 0.0)),
            },
            [(bill, usd) for bill, usd in bills if bill.position == step.position],
        )
        for step in steps
    ]
    models = list(dict.fromkeys((bill.provider, bill.model) for bill, _ in bills))
    by_model = [
        _record(
            {"provider": provider, "model": model, **_rate(model, settings)},
            [(bill, usd) for bill, usd in bills if (bill.provider, bill.model) == (provider, model)],
        )
        for provider, model in models
    ]
    whole = _record({"estimated_usd": millionths(sum(estimates.values()))}, bills)
    return {"steps": rows, "models": by_model, "total": whole}


def _rate(model: str, settings: Settings) -> dict[str, Any]:
    from batchgen.core.pricing import rate

    known = rate(model, settings.prices)
    if known is None:
        return {"rate": None}
    seen = str(known.read_on) if known.read_on else None
    prices = {name: getattr(known, name) for name in ("input", "cached_input", "output")}
    return {"rate": {**prices, "source": known.source, "seen": seen}}


def _record(head: Mapping[str, Any], bills: Sequence[tuple[UsageTotal, float | None]]) -> dict[str, Any]:
    """One line of the receipt: `head`, then what these bills come to."""
    accepted = _sum(bills, {Reason.ACCEPTED})
    superseded = _sum(bills, {Reason.SUPERSEDED})
    failed = _sum(bills, set(Reason) - {Reason.ACCEPTED, Reason.SUPERSEDED})
    every = _sum(bills, set(Reason))
    return {
        **head,
        "usd": millionths(every.usd),
        "accepted": accepted.requests,
        "accepted_usd": millionths(accepted.usd),
        "failed": failed.requests,
        "failed_usd": millionths(failed.usd),
        "superseded": superseded.requests,
        "superseded_usd": millionths(superseded.usd),
        "input_tokens": every.usage.input,
        "cached_tokens": every.usage.cached,
        "output_tokens": every.usage.output,
        "thought_tokens": every.usage.thoughts,
        "unpriced_requests": every.unpriced,
        "at_least": bool(every.unpriced),
    }


def _sum(bills: Iterable[tuple[UsageTotal, float | None]], reasons: set[Reason]) -> Spent:
    found = NOTHING
    for bill, usd in bills:
        if bill.reason in reasons:
            found = Spent(
                found.requests + bill.requests,
                Usage(*(a + b for a, b in zip(found.usage, bill.usage, strict=True))),
                found.usd + (usd or 0.0),
                found.unpriced + (bill.requests if usd is None else 0),
            )
    return found


def millionths(usd: float) -> float:
    """USD as a receipt says it. In two steps: the last bit of a sum depends on the order of its terms, and must not
    decide which way half a millionth is rounded.
    """
    return round(round(usd, 2 * RECEIPT_DIGITS), RECEIPT_DIGITS)
