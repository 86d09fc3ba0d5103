"""Publish a finished run to a local double of the Hugging Face hub, with every kind of trouble on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import DatasetCard, constants
from huggingface_hub.utils import _http

from batchgen.dataset.formats import FORMATS
from batchgen.ledger.store import Store
from batchgen.runtime import logging_setup
from batchgen.runtime.files import Layout
from tests.support.bench import GEMINI_KEY, REPOSITORY, SERVICE_KEY, TOGETHER_KEY, Bench
from tests.support.finished_run import COUNT, export
from tests.support.hub import FIRST_COMMIT, TOKEN, Fault, Hub, running_hub
from tests.support.slow import slow

NAME = "me/dialogues"
SPLIT = ("--test-share", "0.3")
LICENSED = ("--license", "cc-by-4.0")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub without datasets, with the environment that leads to it. Retries of its library do not wait."""
    found = Hub({})
    with running_hub(found):
        for name, value in (("HF_ENDPOINT", found.url), ("HF_TOKEN", TOKEN), ("GEMINI_API_KEY", GEMINI_KEY)):
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        for name in ("HF_TOKEN_PATH", "HF_HUB_CACHE"):
            monkeypatch.setattr(constants, name, str(tmp_path / "hf" / name))
        monkeypatch.setattr(_http, "time", SimpleNamespace(**{**vars(time), "sleep": lambda _: None}))
        yield found


def publish(bench: Bench, *options: str, form: str = "messages", repository: str = NAME) -> Any:
    result = bench.run("publish", repository, "--format", form, "--json", *LICENSED, *options)
    assert result.code == 0, result
    return result.json


def refused(bench: Bench, *options: str, code: int = 2, form: str = "messages") -> str:
    """The error text of a publication that ends with this exit status."""
    result = bench.run("publish", NAME, "--format", form, *LICENSED, *options)
    assert (result.code, result.out) == (code, ""), result
    assert "Traceback" not in result.err
    assert TOKEN not in result.err
    return result.err


# ---------------------------------------------------------------- what arrives


@pytest.mark.parametrize("form", ["messages", "parquet", *map(slow, sorted(FORMATS.keys() - {"messages", "parquet"}))])
def test_the_files_of_the_export_and_its_card_arrive(form: str, hub: Hub, finished: Bench, tmp_path: Path) -> None:
    answer = publish(finished, *SPLIT, form=form)
    export(finished, form, tmp_path / "dialogues", *SPLIT, *LICENSED)
    suffix = "parquet" if form == "parquet" else "jsonl"
    names = {f"train.{suffix}", f"test.{suffix}", "README.md"}
    [(name, found)] = hub.repositories.items()
    assert (name, found.private, len(found.commits)) == (NAME, True, 2)
    assert found.files.keys() - {".gitattributes"} == names
    for each in names - {"README.md"}:
        assert found.files[each] == (tmp_path / "dialogues" / each).read_bytes()
    assert {each["name"]: each["bytes"] for each in answer["files"]} == {each: len(found.files[each]) for each in names}
    assert (answer["url"], answer["private"], answer["changed"]) == (f"{hub.url}/datasets/{NAME}", True, True)
    assert (answer["commit"], answer["conversations"]) == (found.commits[-1], COUNT - 1)
    card = DatasetCard(found.files["README.md"].decode())
    assert card.data.get("license") == "cc-by-4.0"
    made_by = f"batchgen publish {NAME} --format {form} --test-share 0.3 --split-seed 42 --license cc-by-4.0"
    assert made_by in card.text


@pytest.mark.parametrize("form", ["messages", "parquet"])
def test_no_key_and_no_path_of_the_machine_leaves_it(form: str, hub: Hub, finished: Bench, tmp_path: Path) -> None:
    with closing(Store.open(Layout(finished.root).store)) as store:
        store.set_fact("source", str(tmp_path / "secret-folder" / "seeds.jsonl"))
    publish(finished, *SPLIT, form=form)
    assert hub.bodies
    sent = b"\n".join([*hub.bodies, *map(str.encode, hub.asked)])
    planted = (GEMINI_KEY, TOGETHER_KEY, SERVICE_KEY, TOKEN, str(tmp_path), str(Path.home()), "secret-folder")
    assert b"seeds.jsonl" in sent
    assert [text for text in planted if text.encode() in sent] == []
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("batchgen-publish")] == []


def test_people_see_what_goes_where_before_it_goes(hub: Hub, finished: Bench) -> None:
    hub.faults.append(Fault("POST /api/repos/create", 403, "no right to write"))
    assert f"To upload to the dataset {NAME} (private):\n  train.jsonl: " in refused(finished)
    result = finished.run("publish", NAME, "--format", "messages", "--public", *LICENSED)
    assert result.code == 0
    assert f"To upload to the dataset {NAME} (public: everybody can read it):\n  train.jsonl: " in result.err
    assert "  README.md: " in result.err
    assert result.out == f"{COUNT - 1} conversations published as messages: {hub.url}/datasets/{NAME} (public)\n"
    assert not hub.repositories[NAME].private


# ---------------------------------------------------------------- once more


@pytest.mark.parametrize("form", ["messages", "parquet"])
def test_publishing_again_changes_nothing(form: str, hub: Hub, finished: Bench) -> None:
    first = publish(finished, *SPLIT, form=form)
    puts, commits = hub.count("PUT"), list(hub.repositories[NAME].commits)
    again = publish(finished, *SPLIT, form=form)
    assert {**again, "changed": True} == first
    assert again["changed"] is False
    assert (hub.count("PUT"), hub.repositories[NAME].commits) == (puts, commits)
    result = finished.run("publish", NAME, "--format", form, *LICENSED, *SPLIT)
    assert "has these files already; nothing changed" in result.out


def test_only_what_differs_is_sent(hub: Hub, finished: Bench) -> None:
    publish(finished, form="parquet")
    puts = hub.count("PUT")
    answer = publish(finished, "--license", "mit", form="parquet")
    assert answer["changed"]
    assert hub.count("PUT") == puts
    assert b"license: mit" in hub.repositories[NAME].files["README.md"]


@pytest.mark.slow
def test_a_kill_between_two_uploads_costs_only_what_was_not_sent(hub: Hub, finished: Bench, tmp_path: Path) -> None:
    command = ["--root", str(finished.root), "publish", NAME, "--format", "parquet", *LICENSED, *SPLIT]
    names = ("PATH", "HF_ENDPOINT", "HF_TOKEN", "TMPDIR")
    variables = {**{name: os.environ[name] for name in names}, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    children: list[subprocess.Popen[bytes]] = []

    def kill() -> None:
        children[0].kill()
        children[0].wait(60)

    hub.faults.append(Fault("PUT /lfs/", skip=1, call=kill))
    with subprocess.Popen([sys.executable, str(REPOSITORY / "cli.py"), *command], env=variables) as child:
        children.append(child)
        child.wait(60)
    assert child.returncode == -9
    assert hub.repositories[NAME].files.keys() == {".gitattributes"}
    before = set(hub.stored)
    result = finished.run(*command[2:])
    assert result.code == 0
    assert hub.repositories[NAME].files.keys() == {".gitattributes", "train.parquet", "test.parquet", "README.md"}
    assert (len(before), hub.count("PUT /lfs/"), before < set(hub.stored)) == (1, 3, True)


CALLS = [
    "POST /api/repos/create",
    f"GET /api/datasets/{NAME}",
    "POST /api/validate-yaml",
    f"POST /api/datasets/{NAME}/preupload",
    f"POST /datasets/{NAME}.git/info/lfs",
    "PUT /lfs/",
    f"POST /api/datasets/{NAME}/commit",
]


@pytest.mark.parametrize(
    ("call", "after"),
    [
        *((call, True) for call in CALLS),
        *((call, False) for call in CALLS[-2:]),
        *(slow(call, False) for call in CALLS[:-2]),  # noqa: FBT003
    ],
)
def test_a_broken_connection_is_temporary_and_the_next_try_goes_on(
    call: str,
    after: bool,  # noqa: FBT001 - a parameter of the test
    hub: Hub,
    finished: Bench,
) -> None:
    hub.faults.append(Fault(call, times=99, after=after))
    assert "Run the same command again" in refused(finished, code=75, form="parquet")
    hub.faults.clear()
    done = publish(finished, form="parquet")
    assert done["changed"] == (not (after and call.endswith("/commit")))  # the commit was there, its answer was lost
    assert len(hub.repositories[NAME].commits) == 2
    assert hub.repositories[NAME].files.keys() == {".gitattributes", "train.parquet", "README.md"}


@pytest.mark.parametrize(
    ("call", "status"),
    [
        *((call, 503) for call in CALLS),
        (CALLS[-1], 429),
        (CALLS[-1], 500),
        *(slow(call, status) for call in CALLS[:-1] for status in (429, 500)),
    ],
)
def test_a_hub_with_problems_is_temporary(call: str, status: int, hub: Hub, finished: Bench) -> None:
    hub.faults.append(Fault(call, status, times=99))
    assert "The hub has a problem for now" in refused(finished, code=75, form="parquet")


def test_a_short_break_of_an_upload_is_mended_at_once(hub: Hub, finished: Bench) -> None:
    hub.faults += [Fault("PUT /lfs/", 503), Fault("PUT /lfs/")]
    publish(finished, form="parquet")
    assert hub.count("PUT /lfs/") == 3


# ---------------------------------------------------------------- refusals


def test_a_refused_token(hub: Hub, finished: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = "hf_OTHER0planted0token0000000000000"
    monkeypatch.setenv("HF_TOKEN", other)
    err = refused(finished)
    assert "The hub refused the token (401): Invalid credentials in Authorization header" in err
    assert "Set HF_TOKEN to a token that may write" in err
    assert other not in err
    assert hub.repositories == {}


@pytest.mark.parametrize("token", [TOKEN, "a.token.without.the.usual.form"])
@pytest.mark.parametrize("by_login", [False, True])
def test_a_hub_that_quotes_the_token(
    token: str,
    by_login: bool,  # noqa: FBT001 - a parameter of the test
    hub: Hub,
    finished: Bench,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logging_setup, "_secrets", set())
    monkeypatch.setenv("HF_TOKEN", token)
    if by_login:
        log_in(token, monkeypatch)
    hub.faults.append(Fault("POST /api/repos/create", 400, f"token {token} is odd"))
    assert "token *** is odd" in refused(finished)


def log_in(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the token where `hf auth login` does, in place of the environment."""
    monkeypatch.delenv("HF_TOKEN")
    path = Path(constants.HF_TOKEN_PATH)
    path.parent.mkdir(parents=True)
    path.write_text(f"{token}\n", "utf-8")


def test_no_token(hub: Hub, finished: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    err = refused(finished)
    assert "needs a token for an upload, and none is set" in err
    assert "hf auth login" in err
    assert hub.asked == []


def test_the_login_of_the_library_is_taken(hub: Hub, finished: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log_in(TOKEN, monkeypatch)
    publish(finished)


@pytest.mark.parametrize("call", CALLS)
def test_what_the_token_may_not_do(call: str, hub: Hub, finished: Bench) -> None:
    hub.faults.append(Fault(call, 403, "no right to write", times=99))
    err = refused(finished, form="parquet")
    assert f"The hub refused {NAME} (403)" in err
    assert "no right to write" in err


def test_a_licence_that_the_hub_does_not_know(hub: Hub, finished: Bench) -> None:
    err = refused(finished, "--license", "nonsense")
    assert 'The hub refused the card: Invalid metadata in README.md. - "license" must be one of' in err
    assert "Is --license one that the hub knows?" in err


@pytest.mark.parametrize("name", ["dialogues", "a/b/c", "../x", "me/", "https://example.org/me/x"])
def test_a_name_that_is_no_repository(name: str, hub: Hub, finished: Bench) -> None:
    result = finished.run("publish", name, "--format", "messages", *LICENSED)
    assert result.code == 2
    assert "is no repository of the hub" in result.err
    assert hub.asked == []


def test_an_unknown_licence_is_asked_for_with_the_line_to_type(hub: Hub, finished: Bench) -> None:
    result = finished.run("publish", NAME, "--format", "messages", "--flags", "drop:refusal", "--public")
    assert result.code == 2
    assert "The licence of the seeds is not known" in result.err
    assert f"batchgen publish {NAME} --format messages --flags drop:refusal --public --license ID" in result.err
    assert hub.asked == []


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/", "http://[::1", "127.0.0.1"])
def test_an_address_that_cannot_be_used(
    address: str, hub: Hub, finished: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert "HF_ENDPOINT" in refused(finished)


def test_a_page_in_place_of_the_hub(hub: Hub, finished: Bench) -> None:
    hub.faults.append(Fault("POST /api/repos/create", 200, "<html>please log in</html>"))
    assert "The answer is not one of the hub" in refused(finished)


# ---------------------------------------------------------------- a repository that exists


def test_a_private_repository_is_filled_and_stays_private(hub: Hub, finished: Bench) -> None:
    hub.repositories = Hub({NAME: {".gitattributes": b"", "LICENSE": b"mine"}}).repositories
    hub.repositories[NAME].private = True
    result = finished.run("publish", NAME, "--format", "messages", "--public", "--json", *LICENSED)
    assert (result.code, result.json["private"]) == (0, True)
    assert f"{NAME} exists and stays private" in result.err
    assert hub.repositories[NAME].files["LICENSE"] == b"mine"


def test_a_public_repository_gets_nothing_that_should_be_private(hub: Hub, finished: Bench) -> None:
    hub.repositories = Hub({NAME: {".gitattributes": b""}}).repositories
    assert f"{NAME} exists and is public; nothing was uploaded" in refused(finished)
    assert hub.repositories[NAME].commits == [FIRST_COMMIT]
    assert publish(finished, "--public")["private"] is False


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.parquet": b"x"}, f"{NAME} holds train.parquet of another export"),
        ({"README.md": b"# my own words"}, f"The README.md of {NAME} was not written by an export"),
    ],
)
def test_nothing_of_somebody_else_is_overwritten(
    files: dict[str, bytes], words: str, hub: Hub, finished: Bench
) -> None:
    hub.repositories = Hub({NAME: files}).repositories
    hub.repositories[NAME].private = True
    assert words in refused(finished)
    assert hub.repositories[NAME].files == files


def test_a_folder_without_a_run(hub: Hub, bench: Bench) -> None:
    assert "Nothing is prepared" in refused(bench)
    assert hub.asked == []
