"""Test API keys that change or could leak, and clocks that jump (36, 38, 42)."""

from __future__ import annotations

import pytest

from batchgen.emulator.faults import CallFault, Drop, LateCommit, Status
from batchgen.providers import PROVIDERS as TABLE
from batchgen.runtime import clock
from batchgen.runtime.environment import KEY_VARIABLES
from batchgen.runtime.settings import Settings
from tests.support.bench import GEMINI_KEY, Bench
from tests.support.invariants import Make, Watch, end, finished, ledger, no_key_anywhere, start, tick, until
from tests.support.provider_facts import KEY_VARIABLE, KEYS, PROVIDERS, UPLOAD_START

HOUR = 3600.0
DAY = 24 * HOUR


@pytest.fixture
def bench(expected: dict[str, bytes], make_bench: Make) -> Bench:
    return start(make_bench())


def states(bench: Bench) -> list[str]:
    return [batch["state"] for batch in ledger(bench).batches]


# ---------------------------------------------------------------- keys, 36 and 42


@pytest.mark.fault(
    36,
    "the key is rotated while batches are in flight",
    injected="another key in the environment",
    seen="status 3 naming the variable; the batches are left alone and collected once the old key is back",
)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_36_key_rotated_in_flight(
    provider: str, bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The jobs of another key answer 404: this is reported, and they are collected once the old key is back."""
    variable, old = KEY_VARIABLE[provider], KEYS[provider]
    while (batches := ledger(bench).batches) == [] or batches[-1]["provider"] != provider:
        assert tick(bench).code == 0
    monkeypatch.setenv(variable, "another-key-of-mine")
    watch = Watch(bench)
    for _ in range(8):
        alarm = tick(bench, 2 * HOUR)
        assert alarm.code == 3
        assert variable in alarm.err
        assert "another-key-of-mine" not in alarm.err
        watch.check()
    assert states(bench)[-1] == "in_flight"
    assert ledger(bench).batches[-1]["not_found_count"] == 0
    monkeypatch.setenv(variable, old)
    end(bench, expected)


@pytest.mark.fault(
    36,
    "the key is rotated after an unanswered create",
    injected="another key in the environment",
    seen="status 3; nothing is bought again; adopted once the old key is back",
)
def test_36_key_rotated_after_an_unclear_create(
    bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the key of the create call can show that no job exists."""
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Drop(), after_effect=True))
    assert tick(bench).code == 75
    monkeypatch.setenv("GEMINI_API_KEY", "another-key-of-mine")
    for _ in range(4):
        assert tick(bench, HOUR).code == 3
    assert states(bench) == ["creating"]
    monkeypatch.setenv("GEMINI_API_KEY", GEMINI_KEY)
    end(bench, expected, jobs=3)


@pytest.mark.fault(
    36,
    "the key is rotated between upload and create",
    injected="another key in the environment",
    seen="uploaded again under the new key",
)
def test_36_key_rotated_after_the_upload(
    bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing was bought with the old key: the file is uploaded again under the new one."""
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, "quota")))
    assert tick(bench).code == 75
    monkeypatch.setenv("GEMINI_API_KEY", "another-key-of-mine")
    assert tick(bench, 200).code == 0
    end(bench, expected)


@pytest.mark.fault(
    42,
    "errors that carry the request, answers that quote the key, all logs turned up",
    injected="planted keys, `-v`, the SDKs' own debug logs",
    seen="`***`; the keys are in no file and no output",
)
@pytest.mark.parametrize("provider", ["together", "deepinfra"])
def test_42_planted_keys_are_found_nowhere(provider: str, bench: Bench) -> None:
    """Errors contain the request and its headers, and responses quote the key."""
    faults, said = bench.service.faults, []
    for asked in ("gemini", provider):
        quoting = quoted(asked)
        faults.add(CallFault(provider=asked, endpoint="probe", action=Status(400, quoting)))
        faults.add(CallFault(provider=asked, endpoint=UPLOAD_START[asked], action=Status(500, quoting)))
        faults.add(CallFault(provider=asked, endpoint="create", action=Status(429, quoting)))
        faults.add(CallFault(provider=asked, endpoint="get", action=Drop(reset=True)))
    while faults.struck() < 8:
        bench.service.world.advance(200)
        done = bench.run("-v", "collect", "--advance")
        assert done.code in {0, 75}
        said += [done.out, done.err]
        assert len(said) < 20, "some faults are never met"
    assert any("***" in text for text in said)
    no_key_anywhere(bench, said)
    assert tick(bench, 200).code == 0


def test_42_the_logs_of_the_sdks_name_no_key(bench: Bench) -> None:
    """In a new process, because the SDKs read the level of their logs when they are imported."""
    assert tick(bench).code == 0
    bench.service.faults.add(CallFault(provider="gemini", endpoint="get", action=Status(500, quoted("gemini"))))
    lasting = Status(500, quoted("together"))
    bench.service.faults.add(CallFault(provider="together", endpoint=UPLOAD_START["together"], action=lasting, times=0))
    logs = dict.fromkeys(("TOGETHER_LOG", "GOOGLE_GENAI_LOG", "HTTPX_LOG_LEVEL"), "debug")
    done = bench.spawn("-v", "collect", "--advance", **logs)
    assert done.returncode == 75, done
    assert "***" in done.stderr
    no_key_anywhere(bench, [done.stdout, done.stderr])


def quoted(provider: str) -> str:
    key = KEYS[provider]
    return f"the request with x-goog-api-key: {key} and Authorization: Bearer {key} was refused"


@pytest.mark.fault(
    42,
    "a key from ROOT/.env that looks like no key",
    injected="quoted in a refusal",
    seen="`***`, in the store too",
)
def test_42_a_key_of_any_shape_from_a_file_is_masked(
    bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys in ROOT/.env were never in the environment, and some have no typical form."""
    key = "0123456789abcdef" * 4
    monkeypatch.delenv("TOGETHER_API_KEY")
    (bench.root / ".env").write_text(f"TOGETHER_API_KEY={key}\n", "utf-8")
    (bench.root / ".env").chmod(0o600)
    refused = Status(400, f"Invalid request by {key}")
    bench.service.faults.add(CallFault(provider="together", endpoint="create", action=refused))
    halted = until(bench, 3)
    assert key not in halted.err
    assert "Invalid request by ***" in halted.err
    (bench.root / ".env").rename(bench.root.parent / ".env")
    for path in bench.root.rglob("*.*"):
        assert not path.is_file() or key.encode() not in path.read_bytes(), path
    assert bench.run("status").code == 0
    (bench.root.parent / ".env").rename(bench.root / ".env")
    bench.run("retry")
    bench.ticks()
    assert bench.files() == expected


@pytest.mark.fault(
    42,
    "the key of a provider that this run does not use",
    injected="in the environment or in ROOT/.env, quoted in a refusal",
    seen="`***`",
)
@pytest.mark.parametrize("where", ["environment", ".env"])
def test_42_the_key_of_a_provider_that_is_not_used(
    where: str, make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"{where.strip('.')}-0123456789abcdef"
    bench = start(make_bench(), "", 'answer.provider = "gemini"\n')
    if where == ".env":
        monkeypatch.delenv("TOGETHER_API_KEY")
        (bench.root / ".env").touch(mode=0o600)
        (bench.root / ".env").write_text(f"TOGETHER_API_KEY='{key}'\n", "utf-8")
    else:
        monkeypatch.setenv("TOGETHER_API_KEY", key)
    bench.service.faults.add(
        CallFault(provider="gemini", endpoint="create", action=Status(400, f"Invalid use of {key}"))
    )
    refused = tick(bench)
    assert "Invalid use of ***" in refused.err
    assert key not in refused.err


def test_42_a_variable_of_another_program_is_no_key(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its value may be a common word, which would then be masked in every line."""
    monkeypatch.setenv("EDITOR_API_KEY", "pinned")
    assert "is pinned for this run" in tick(bench).err


def test_42_every_provider_has_its_key_where_it_is_looked_for() -> None:
    """`settings` knows the variables without loading the providers."""
    assert {row.key_variable for row in TABLE.values()} == set(KEY_VARIABLES)


# ---------------------------------------------------------------- clocks, 38


class Jump:
    """The clock of the client; that of the provider does not jump."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds = 0.0
        monkeypatch.setattr(clock, "now", lambda: bench.service.world.now() + self.seconds)


@pytest.mark.fault(
    38,
    "the clock jumps while batches are in flight",
    injected="-2 h, -1 h, +3 d, and back",
    seen="no batch given up, no negative age, nothing sent twice",
)
@pytest.mark.parametrize("seconds", [-2 * HOUR, 3 * DAY, -HOUR])
def test_38_clock_jumps_while_jobs_run(
    seconds: float, expected: dict[str, bytes], make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No job is abandoned, no age is negative, nothing is sent twice."""
    bench = start(make_bench(job_seconds=6 * HOUR))
    jump = Jump(bench, monkeypatch)
    assert tick(bench).code == 0
    watch = Watch(bench)
    for there in (seconds, 0.0, seconds):
        jump.seconds = there
        assert tick(bench, 300).code == 0
        watch.check()
        assert all(batch["age_seconds"] >= 0 for batch in bench.status()["batches"])
    bench.ticks(seconds=HOUR)
    finished(bench)
    assert bench.service.world.batches_bought == 3
    assert bench.files() == expected


@pytest.mark.fault(
    38,
    "the clock is set back while a job's own address answers 404",
    injected="-7 d",
    seen="lost after five answers over two hours, as ever",
)
def test_38_a_clock_set_back_cannot_keep_a_lost_job_alive(
    expected: dict[str, bytes], make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = start(make_bench())
    jump = Jump(bench, monkeypatch)
    assert tick(bench).code == 0
    bench.service.faults.add(CallFault(endpoint="get", action=Status(404, "Not found."), times=5))
    jump.seconds = 7 * DAY
    assert tick(bench).code == 75
    jump.seconds = 0
    assert [tick(bench, 45 * 60).code for _ in range(4)] == [75, 75, 75, 3]
    bench.ticks()
    finished(bench)
    assert bench.files() == expected


@pytest.mark.fault(
    38,
    "the clock jumps while a create is unclear",
    injected="-2 h, +3 d",
    seen="no second batch; adopted when it is listed",
)
@pytest.mark.parametrize("seconds", [-2 * HOUR, 3 * DAY])
def test_38_clock_jumps_while_a_create_is_unclear(
    seconds: float, bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is listed after three minutes; before that, no jump of the clock may buy another one."""
    jump = Jump(bench, monkeypatch)
    late = LateCommit(seconds=180)
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=late))
    assert tick(bench).code == 75
    jump.seconds = seconds
    assert tick(bench, 60).code == 75
    assert tick(bench, 60).code == 75
    assert tick(bench, 61).code == 0
    end(bench, expected, jobs=3)


@pytest.mark.fault(
    38,
    "the clock is set back during a pause",
    injected="-7 d",
    seen="the pause is over within two hours",
)
def test_38_a_clock_set_back_cannot_stretch_a_pause(
    bench: Bench, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pause that was stored before the clock was set back by a week ends within the longest pause."""
    jump = Jump(bench, monkeypatch)
    bench.service.faults.add(CallFault(provider="gemini", endpoint="create", action=Status(429, "quota")))
    jump.seconds = 7 * DAY
    assert tick(bench).code == 75
    assert [wait["for"] for wait in bench.status()["waiting"]] == [Settings().gemini.models[0]]
    jump.seconds = 0
    assert bench.status()["waiting"] == []  # a hold that is over is not shown
    end(bench, expected)
