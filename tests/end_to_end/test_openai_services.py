"""Run the whole pipeline with the answers of each service that speaks OpenAI's batch protocol."""

from __future__ import annotations

import pytest

from batchgen.providers.openai_services import SERVICES
from tests.support.bench import seeds
from tests.support.invariants import ROUNDS, Make, finished, undisturbed
from tests.support.scene import Scene, built_again
from tests.support.slow import slow


@pytest.mark.parametrize("provider", ["deepinfra", *map(slow, sorted(SERVICES.keys() - {"deepinfra"}))])
def test_a_run_with_the_answers_of_a_service(provider: str, make_bench: Make) -> None:
    expected = undisturbed(make_bench, 4)
    bench = make_bench(answerer=provider)
    bench.configure(ROUNDS)
    bench.prepare(seeds(4))
    bench.ticks()
    finished(bench)
    assert bench.files() == expected
    [job] = bench.service.world.jobs_created(provider)
    assert len(job.keys) == 4
    assert bench.run("verify").code == 0
    assert bench.status()["stage_models"]["answer"]["provider"] == provider
    built_again(Scene(bench, expected))
