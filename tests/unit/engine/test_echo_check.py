"""Test the check by echo: what a reply under a wrong key leads to, and when echoes are not believed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchgen.core.dialogue import Stage, Step, Turn, echo_of, request_key, steps
from batchgen.core.outcomes import Reason, Reply
from batchgen.engine.session import Session
from batchgen.engine.settlement import settle
from batchgen.engine.settlement.echo_check import are_echoes_ignored, check_echoes
from batchgen.engine.submission import request_files
from batchgen.engine.submission.submit import plan_batch
from batchgen.ledger.rows import Batch, BatchState
from batchgen.ledger.store import Store
from batchgen.providers import PROVIDERS
from batchgen.runtime.files import Layout
from batchgen.runtime.settings import BatchSettings, Settings

STEP = Step.at(3)
ALIKE = "That depends on what you need."  # a text that tells nothing of its request


GEMINI_STEPS = [step for step in steps(3) if step.stage is not Stage.ANSWER]


def keys(count: int, first: int = 1, step: Step = STEP) -> dict[str, int]:
    return {request_key(f"r1-{n:06d}", step, 1, "beef"): n for n in range(first, first + count)}


def replies(asked: dict[str, int]) -> list[Reply]:
    """One reply for each request, with its echo."""
    return [Reply(key, Reason.ACCEPTED, ALIKE, echo=echo_of(number)) for key, number in asked.items()]


def swap(found: list[Reply], one: int, other: int) -> list[Reply]:
    """Put two replies under each other's keys."""
    changed = list(found)
    changed[one] = found[other]._replace(key=found[one].key)
    changed[other] = found[one]._replace(key=found[other].key)
    return changed


def test_echoes_of_neighbours_differ() -> None:
    assert len({echo_of(number) for number in range(1000, 1000 + 2704)}) == 2704
    assert all(len(echo_of(number)) == 2 and echo_of(number).isalnum() for number in (0, 1, 3843, 10**9))
    assert echo_of(2704) == echo_of(0)


@pytest.mark.parametrize("step", GEMINI_STEPS, ids=str)
@settings(max_examples=40)
@given(count=st.integers(2, 400), first=st.integers(0, 10**6), data=st.data())
def test_a_swapped_pair_is_always_found(step: Step, count: int, first: int, data: st.DataObject) -> None:
    one, other = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    asked = keys(count, first, step)
    found = check_echoes(asked, swap(replies(asked), one, other))
    names = list(asked)
    assert found.foreign == {one: names[other], other: names[one]}
    assert found.proven == set(names) - {names[one], names[other]}
    assert not found.unproven
    assert not are_echoes_ignored(found, swap(replies(asked), one, other), dict.fromkeys(asked, ALIKE), ())


def test_an_echo_that_two_requests_have_proves_nothing() -> None:
    asked = keys(1) | keys(1, 1 + 2704) | keys(1, 2)
    found = check_echoes(asked, replies(asked))
    assert found.unproven == [0, 1]
    assert len(found.proven) == 1
    assert not are_echoes_ignored(found, replies(asked), dict.fromkeys(asked, ""), ())


def test_an_echo_that_two_other_requests_have_is_foreign_all_the_same() -> None:
    asked = keys(1) | keys(1, 1 + 2704) | keys(1, 2)
    found = replies(asked)
    check = check_echoes(asked, [*found[:2], found[2]._replace(echo=echo_of(1))])
    assert list(check.foreign) == [2]


def test_replies_of_nobody_are_left_out() -> None:
    asked = keys(3)
    strange = [Reply(key, Reason.ACCEPTED, ALIKE, echo=echo_of(1)) for key in ("", "nobody-sent-this")]
    assert check_echoes(asked, [*strange, *replies(asked)]) == (3, set(asked), {}, [])


def test_a_request_that_was_answered_before_is_known_by_its_reply() -> None:
    """Of two swapped replies, one stands under the key of a conversation that the batch does not hold any more."""
    asked = keys(5)
    last = list(asked)[-1]
    found = check_echoes({key: asked[key] for key in asked if key != last}, swap(replies(asked), 0, 4))
    assert found.foreign == {0: last, 4: next(iter(asked))}


def test_what_was_not_accepted_is_not_compared() -> None:
    asked = keys(3)
    failed = [reply._replace(reason=Reason.TRUNCATED, echo="") for reply in replies(asked)]
    assert check_echoes(asked, failed)[:3] == (0, set(), {})


@pytest.mark.parametrize(("without", "ignored"), [(3, False), (4, True)])
def test_so_many_replies_without_an_echo_show_that_it_is_ignored(without: int, *, ignored: bool) -> None:
    asked = keys(40)
    found = [reply._replace(echo="" if n < without else reply.echo) for n, reply in enumerate(replies(asked))]
    check = check_echoes(asked, found)
    assert check.may_be_ignored == ignored
    assert are_echoes_ignored(check, found, dict.fromkeys(asked, ""), ()) == ignored
    assert not are_echoes_ignored(check, found, dict.fromkeys(asked, ""), set(asked))


def test_replies_that_answer_their_requests_with_one_and_the_same_echo() -> None:
    asked = keys(40)
    requests = {key: f"What about subject{chr(97 + n % 26)}{chr(97 + n // 26)}word?" for n, key in enumerate(asked)}
    fitting = [Reply(key, Reason.ACCEPTED, text, echo=echo_of(1)) for key, text in requests.items()]
    assert are_echoes_ignored(check_echoes(asked, fitting), fitting, requests, ())
    moved = [
        reply._replace(key=other.key) for reply, other in zip(replies(asked), fitting[1:] + fitting[:1], strict=True)
    ]
    moved = [reply._replace(text=requests[key]) for reply, key in zip(moved, asked, strict=True)]
    check = check_echoes(asked, moved)
    assert len(check.foreign) == 40
    assert not are_echoes_ignored(check, moved, requests, ())


def planned(root: Path, count: int, *, echo: bool = True) -> tuple[Session, Batch]:
    """A batch of questions that is about to be settled."""
    layout = Layout(root)
    layout.data.mkdir(parents=True)
    store = Store.open(layout.store)
    store.replace_seeds([Turn(f"q{n}", "a", "c") for n in range(count)], {"run": "beef", "prepared": ""})
    session = Session(layout, Settings(batches=BatchSettings(echo=echo)), store, {})
    draft = request_files.draft_batch(session, STEP, 0)
    assert draft is not None
    return session, plan_batch(session, draft)


def test_whatever_the_words_say_a_swapped_pair_is_misplaced_and_the_rest_accepted(tmp_path: Path) -> None:
    session, batch = planned(tmp_path, 60)
    asked, chance = session.keys(batch), Random(1)
    for _ in range(100):
        one, other = chance.sample(range(60), 2)
        judged = settle._reject_misplaced(session, batch, asked, swap(replies(asked), one, other))
        assert {n for n, reply in enumerate(judged) if reply.reason is Reason.MISPLACED} == {one, other}
    shuffled = [reply._replace(key=key) for reply, key in zip(replies(asked), [*list(asked)[1:], *asked], strict=False)]
    judged = settle._reject_misplaced(session, batch, asked, [*shuffled[:10], *replies(asked)[11:]])
    assert sum(reply.reason is Reason.MISPLACED for reply in judged) == 10
    assert sum(reply.reason is Reason.ACCEPTED for reply in judged) == 49


def test_replies_without_an_echo_are_compared_by_their_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, batch = planned(tmp_path, 60)
    asked = session.keys(batch)
    names = list(asked)
    monkeypatch.setattr(settle, "find_swapped_replies", lambda *_: {names[0]: names[1], names[1]: names[0]})
    found = [reply._replace(echo="" if n < 2 else reply.echo) for n, reply in enumerate(replies(asked))]
    judged = settle._reject_misplaced(session, batch, asked, found)
    assert [reply.reason for reply in judged[:3]] == [Reason.MISPLACED, Reason.MISPLACED, Reason.ACCEPTED]
    # The request that the first seems to fit has its own reply.
    judged = settle._reject_misplaced(session, batch, asked, [found[0], *replies(asked)[1:]])
    assert judged[0].reason is Reason.ACCEPTED


def test_echoes_are_written_as_configured_and_no_more_after_they_were_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session, batch = planned(tmp_path / "on", 60)
    assert batch.plan.echo == 1
    asked = session.keys(batch)
    plain = [reply._replace(echo="") for reply in replies(asked)]
    for _ in range(2):
        assert settle._reject_misplaced(session, batch, asked, plain) == plain
    assert caplog.text.count("does not return the echo of its schema") == 1
    session.store.release(batch, BatchState.REFUSED, error="")
    draft = request_files.draft_batch(session, STEP, 1)
    assert draft is not None
    assert not draft.echo
    assert b"propertyOrdering" not in draft.body
    session.store.close()
    off, batch = planned(tmp_path / "off", 2, echo=False)
    assert batch.plan.echo == 0
    assert b"enum" not in off.layout.requests(batch.step, batch.name).read_bytes()
    off.store.close()


def test_only_gemini_is_asked_for_an_echo() -> None:
    assert [name for name, row in PROVIDERS.items() if row.echoes] == ["gemini"]
