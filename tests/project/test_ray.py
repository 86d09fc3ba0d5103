"""Check deploy/ray without Ray: configurations agree with the code, packages are pinned, no process is left behind."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.bench import REPOSITORY

FOLDER = REPOSITORY / "deploy" / "ray"


def pins(name: str) -> dict[str, str]:
    """The releases in a file of requirements; every line must name one."""
    lines = (REPOSITORY / name).read_text("utf-8").splitlines()
    found = [re.fullmatch(r"([\w.-]+(?:\[[\w,]+\])?)==([\w.]+)", line) for line in lines if not line.startswith("#")]
    assert all(found), lines
    return {match[1].lower(): match[2] for match in found if match}


def application(name: str) -> Mapping[str, Any]:
    config = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    (found,) = config["applications"]
    assert config["http_options"]["port"] == 8000
    assert isinstance(found, dict)
    return found


def test_ray_and_all_that_it_needs_are_pinned() -> None:
    ours, others = pins("requirements-ray.txt"), pins("requirements.txt")
    assert ours["ray[serve]"] in (FOLDER / "gpu.yaml").read_text("utf-8")
    assert {name: ours[name] for name in ("msgspec", "orjson")} == {
        name: others[name] for name in ("msgspec", "orjson")
    }


def test_small_model_is_what_its_configuration_names() -> None:
    found = application("cpu.yaml")
    module, _, function = found["import_path"].partition(":")
    tree = ast.parse((REPOSITORY / module.replace(".", "/")).with_suffix(".py").read_text("utf-8"))
    names = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    (deployment,) = found["deployments"]
    assert {function, deployment["name"]} <= names.keys()
    options = [node.target for node in names["Options"].body if isinstance(node, ast.AnnAssign)]
    assert {node.id for node in options if isinstance(node, ast.Name)} == found["args"].keys()
    assert deployment["max_ongoing_requests"] > found["args"]["rows_at_once"]
    assert deployment["ray_actor_options"]["num_cpus"] == found["args"]["threads"]


def test_another_copy_of_vllm_is_started_before_one_has_all_rows_it_takes() -> None:
    (model,) = application("gpu.yaml")["args"]["llm_configs"]
    deployment = model["deployment_config"]
    rows = model["engine_kwargs"]["max_num_seqs"]
    assert deployment["autoscaling_config"]["target_ongoing_requests"] < rows < deployment["max_ongoing_requests"]


LEAVES_A_GRANDCHILD = """
import subprocess, sys
from own_processes import all_ended_at_exit, named, wait_for
with all_ended_at_exit():
    subprocess.run(["sh", "-c", "setsid sleep 300 & echo $!"])
    wait_for("sleep", lambda: named("sleep"), 30)
    raise KeyboardInterrupt
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the check of the Ray cluster is for Linux")
def test_the_check_ends_processes_whose_parent_has_ended() -> None:
    command = [sys.executable, "-c", LEAVES_A_GRANDCHILD]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert not Path(f"/proc/{int(done.stdout)}").exists()
