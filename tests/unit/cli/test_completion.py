"""Test shell completion with click's own scripts in real shells.

zsh and fish are skipped where they are not installed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from batchgen.core.dialogue import Stage
from batchgen.core.wording import COMMANDS
from batchgen.dataset.formats import FORMATS
from batchgen.runtime.settings import PROVIDERS
from tests.support.bench import REPOSITORY

# Words typed -> what is offered for the last one.
OFFERS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("batchgen", ""): tuple(COMMANDS),
    ("batchgen", "submit", "--stage", ""): tuple(map(str, Stage)),
    ("batchgen", "export", "--format", "p"): tuple(name for name in FORMATS if name.startswith("p")),
    ("batchgen", "switch", ""): (*map(str, Stage), *PROVIDERS),
    ("batchgen", "serve", "--grac"): ("--grace",),
    ("batchgen", "prepare", "--input", "see"): ("seeds.jsonl",),
}
# The program offers the same to every shell. Its scripts differ in how they show names, and paths.
FEW_OFFERS = {words: OFFERS[words] for words in [("batchgen", ""), ("batchgen", "prepare", "--input", "see")]}
LEFT_TO_THE_SHELL = ("FILES",)
ENDING = "---"

# What is run in a shell: the line of the documentation, then these lines for the words. Outside of a command line, bash
# and zsh cannot complete paths; there, FILES is printed when they are asked to.
BASH = """
compopt() { COMPREPLY=(FILES); }
ask() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _batchgen_completion batchgen
    printf '%s\\n' "${COMPREPLY[@]}"; }
eval "$(_BATCHGEN_COMPLETE=bash_source batchgen)"
"""
ZSH = """
compdef() {}; compadd() { print -l -- $completions }; _path_files() { print FILES }
_describe() { print -l -- ${completions_with_descriptions%%:*} }
ask() { words=("$@"); CURRENT=$#; _batchgen_completion }
eval "$(_BATCHGEN_COMPLETE=zsh_source batchgen)"
"""
FISH = """
function ask; complete --do-complete "$argv" | string replace -r '\\t.*' ''; end
_BATCHGEN_COMPLETE=fish_source batchgen | source
"""
SHELLS = {"bash": BASH, "zsh": ZSH, "fish": FISH}


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A folder with the program as it is installed, under the name `batchgen`, and with paths to complete."""
    script = tmp_path / "bin" / "batchgen"
    script.parent.mkdir()
    (script.parent / "seeds.jsonl").touch()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {REPOSITORY / "cli.py"} "$@"\n')
    script.chmod(0o755)
    return script.parent


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.slow
def test_what_a_shell_offers(shell: str, program: Path) -> None:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    offers = OFFERS if shell == "bash" else FEW_OFFERS
    lines = [f"ask {shlex.join(words)}; echo {ENDING}" for words in offers]
    done = subprocess.run(
        [found, *(["-f"] if shell == "zsh" else []), "-c", SHELLS[shell] + "\n".join(lines)],
        env={"PATH": f"{program}:{os.environ['PATH']}", "HOME": str(program.parent)},
        cwd=program,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stderr == ""
    offered = [tuple(part.split()) for part in done.stdout.split(f"{ENDING}\n")[:-1]]
    if shell == "fish":
        assert offered == [tuple(sorted(names)) for names in offers.values()]
    else:
        assert offered == [LEFT_TO_THE_SHELL if names == ("seeds.jsonl",) else names for names in offers.values()]
