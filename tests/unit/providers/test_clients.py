"""Test every kind of answer to a call: the client returns a value or raises an error of batchgen, never one of an SDK.

For a 200 with a wrong body, the SDKs raise AttributeError (null), TypeError (a list) or KeyError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from batchgen.core.errors import BatchgenError
from batchgen.emulator.faults import Body, CallFault, Drop, Unwrap
from batchgen.providers import connect, find_provider
from batchgen.providers.base import REFUSALS, ConnectionOptions, ProviderClient
from tests.support.bench import GEMINI_KEY, Bench
from tests.support.invariants import bought_once, ledger, undisturbed, until
from tests.support.scene import HOUR, MINUTE, Make, Scene

ODD = ("null", "[]", "[null]", '"x"', "17", "true", "{}", '{"file":null}', '{"file":[1]}', '{"job":[]}', '{"data":3}')
LINE = b'{"key":"a","request":{}}\n'
Call = Callable[[ProviderClient, Path], object]


def calls(uploads: Sequence[str], files: str = "", jobs: str = "") -> dict[str, Call]:
    """Every call by its endpoint of the service. `files` and `jobs` are the prefixes of ids."""
    return {
        **dict.fromkeys(uploads, lambda remote, path: remote.upload(path, len(LINE))),
        "file_get": lambda remote, _: remote.file(f"{files}abc"),
        "create": lambda remote, _: remote.create(model="m", file_id=f"{files}abc", name="n"),
        "get": lambda remote, _: remote.get(f"{jobs}abc"),
        "list": lambda remote, _: remote.jobs(),
        "download": lambda remote, _: remote.download(f"{files}abc", BytesIO()),
        "cancel": lambda remote, _: remote.cancel(f"{jobs}abc"),
        "file_delete": lambda remote, _: remote.delete_file(f"{files}abc"),
        "delete": lambda remote, _: remote.delete_job(f"{jobs}abc"),
        "probe": lambda remote, _: remote.probe("m"),
    }


CALLS = {
    "gemini": calls(("upload_start", "upload_data"), "files/", "batches/"),
    "together": calls(("upload_start", "upload_data", "upload_finish")),
    "deepinfra": calls(("upload_whole",)),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_odd_answer_to_any_call_is_ours_to_tell(name: str, make_bench: Make, tmp_path: Path) -> None:
    bench, row = make_bench(), find_provider(name)
    access = ConnectionOptions(bench.environment[row.key_variable], bench.environment[row.url_variable], 20.0, "v1beta")
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINE)
    with closing(connect(row, access)) as remote:
        for answer in ODD:
            assert {"create", "get"} <= told(remote, bench, name, answer, path), answer


def told(remote: ProviderClient, bench: Bench, name: str, answer: str, path: Path) -> set[str]:
    """Make every call. Returns those that raised an error of batchgen for this answer."""
    faults, found = bench.service.faults, set[str]()
    for endpoint, call in CALLS[name].items():
        odd = Body(text=answer, content_type="application/json", headers={"X-Goog-Upload-Status": "final"})
        faults.add(CallFault(provider=name, endpoint=endpoint, action=odd, times=0))
        try:
            with suppress(*REFUSALS):
                call(remote, path)
        except BatchgenError:
            found.add(endpoint)
        faults.clear()
    return found


NO_WHOLE_LIST: dict[str, list[Any]] = {
    "gemini": [
        {"error": {"code": 500, "message": "upstream"}},
        {"unreachable": ["locations/us"]},
        {"operations": [], "unreachable": ["locations/us"]},
        {"operations": [{}]},
        {"operations": [None]},
        {"operations": {}, "nextPageToken": ""},
    ],
    "together": [
        {"data": [], "has_more": True},
        {"data": [], "next_page": "2"},
        {"data": None},
        {"error": {"message": "upstream"}},
        [{}],
        [None],
        "later",
    ],
    "deepinfra": [
        {"data": [], "has_more": True},
        {"data": None},
        {"detail": "upstream"},
        {"data": [{}], "has_more": False},
        {"data": [None]},
        [],
        "later",
    ],
}


@pytest.mark.fault(
    3,
    "the listing that would find an unanswered create is not whole",
    injected="a list that names unreachable locations, has more pages or rows that are no batch, or is no list",
    seen="status 75 for as long as it lasts; nothing is bought twice",
)
@pytest.mark.parametrize("provider", NO_WHOLE_LIST)
def test_a_list_that_is_not_whole_does_not_say_that_nothing_is_listed(make_bench: Make, provider: str) -> None:
    scene = Scene.of(make_bench, 2)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True))
    until(scene.bench, 75)
    for value in NO_WHOLE_LIST[provider]:
        faults.clear()
        faults.add(CallFault(provider=provider, endpoint="list", action=Body(json=value), times=0))
        assert (scene.tick(HOUR / 2).code, value) == (75, value)
        asked_for = ledger(scene.bench).batches[-1]
        assert (asked_for["state"], asked_for["empty_listings"], value) == ("creating", 0, value)
    faults.clear()
    scene.finish()
    assert scene.jobs() == len(("question", "answer", "correction"))
    bought_once(scene.bench)


def json_text(text: str) -> Body:
    return Body(text=text, content_type="application/json")


@pytest.mark.fault(
    3,
    "the listing that would find an unanswered create is empty, though other jobs have just ended",
    injected="an empty object, an empty list or null in place of the listing",
    seen="status 75 for as long as it lasts; nothing is bought twice",
)
@pytest.mark.parametrize(
    ("provider", "text"),
    [("gemini", "{}"), ("together", "null"), ("together", "[]"), ("deepinfra", '{"object": "list", "data": []}')],
)
def test_an_empty_list_is_not_believed_while_jobs_are_known(make_bench: Make, provider: str, text: str) -> None:
    scene = Scene.of(make_bench, 2, most=1)
    faults = scene.bench.service.faults
    faults.add(CallFault(provider=provider, endpoint="create", action=Drop(), after_effect=True, nth=2))
    until(scene.bench, 75)
    faults.add(CallFault(provider=provider, endpoint="list", action=json_text(text), times=0))
    said = [scene.tick(HOUR) for _ in range(3)]
    assert [result.code for result in said] == [75] * 3
    assert "the provider's list is not complete" in said[-1].err
    faults.clear()
    scene.finish()
    assert scene.jobs() == 2 * len(("question", "answer", "correction"))
    bought_once(scene.bench)


def test_null_in_place_of_a_list_is_an_empty_one_where_no_job_is_known(make_bench: Make) -> None:
    """The first create call never arrived and the account has no job: the search for it must end."""
    scene = Scene.of(make_bench, 2)
    scene.bench.service.faults.add(
        CallFault(provider="together", endpoint="create", action=Drop()),
        CallFault(provider="together", endpoint="list", action=json_text("null"), times=0),
    )
    until(scene.bench, 75)
    assert [scene.tick(10 * MINUTE).code for _ in range(2)] == [75, 0]
    scene.finish()
    bought_once(scene.bench)


def test_a_list_in_the_dress_of_others_is_read(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 2)
    scene.tick()
    lost = CallFault(provider="together", endpoint="create", action=Drop(), after_effect=True)
    scene.bench.service.faults.add(lost)
    assert scene.tick().code == 75
    [job] = scene.bench.service.world.jobs_created("together")
    row = {"id": job.id, "status": "IN_PROGRESS", "input_file_id": job.input_file}
    data = Body(json={"object": "list", "data": [row], "has_more": False})
    scene.bench.service.faults.add(CallFault(provider="together", endpoint="list", action=data, times=0))
    scene.finish()
    assert scene.jobs("together") == 1


def test_a_batch_that_is_no_operation_is_read(make_bench: Make) -> None:
    """The response is the batch itself, as in the API reference, not an operation with it as its metadata."""
    expected = undisturbed(make_bench, 2)
    scene = Scene.of(make_bench, 2)
    bare = CallFault(provider="gemini", endpoint="get", action=Unwrap("metadata"), times=0)
    scene.bench.service.faults.add(bare)
    scene.finish()
    assert scene.jobs("gemini") == len(("question", "correction"))
    assert scene.bench.files() == expected


def test_a_list_whose_pages_go_round_is_given_up_at_once(make_bench: Make) -> None:
    scene = Scene.of(make_bench, 1)
    service = scene.bench.service
    service.faults.add(
        CallFault(provider="gemini", endpoint="list", action=Body(json={"nextPageToken": "again"}), times=0)
    )
    remote = connect(find_provider("gemini"), ConnectionOptions(GEMINI_KEY, service.gemini_url, 20.0, "v1beta"))
    with pytest.raises(BatchgenError, match="does not end"):
        remote.jobs()
    remote.close()
    assert len([seen for seen in service.world.seen("gemini") if seen.endpoint == "list"]) == len(("first", "again"))
