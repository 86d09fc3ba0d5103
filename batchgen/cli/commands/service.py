"""Commands for the local service: serve and demo."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from batchgen.cli.commands.base import GlobalOptions, NumberRange
from batchgen.cli.paths import UserPath
from batchgen.runtime.streams import table_width


@click.command(short_help="The batch APIs on this machine, in front of a local model.")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Listen here. An address that other machines reach needs a token.",
)
@click.option(
    "--token-file", type=UserPath(), help="The only API key to accept. Default: $BATCHGEN_SERVE_TOKEN, if set."
)
@click.option("--gemini-port", type=click.IntRange(0, 65535), default=8801, show_default=True, help="Gemini.")
@click.option("--together-port", type=click.IntRange(0, 65535), default=8802, show_default=True, help="Together.")
@click.option(
    "--openai-port",
    type=click.IntRange(0, 65535),
    default=8803,
    show_default=True,
    help="All others, each under its name: /deepinfra, /groq, ...",
)
@click.option(
    "--backend",
    multiple=True,
    default=["smollm"],
    show_default=True,
    help="smollm, scripted, or the URL of a chat server. Repeatable for URLs: each row goes to the least busy one.",
)
@click.option(
    "--models",
    multiple=True,
    metavar="NAME[=MODEL],...",
    help="Serve only these models; MODEL is the backend's name for it. Repeatable.  [default: any name]",
)
@click.option("--data-dir", type=UserPath(), help="Keep files and jobs here across restarts.")
@click.option(
    "--job-seconds", type=NumberRange(min=0), default=2.0, show_default=True, help="Shortest duration of a job."
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 4096),
    help="Rows sent at once to each backend.  [default: 64 of a server, 8 of smollm]",
)
@click.option(
    "--grace",
    type=NumberRange(min=0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="After SIGTERM or Ctrl-C, finish rows in flight for so long.",
)
@click.option("--control", is_flag=True, help="Let any program on this machine cause faults and set the clock (tests).")
@click.option("--allow-host", multiple=True, metavar="NAME", help="Also accept this host name. Repeatable.")
def serve(**asked: Any) -> None:
    """Serve all providers' batch APIs on this machine, in front of a small local model or any OpenAI-compatible server.

    \b
      batchgen serve --backend http://127.0.0.1:8000/v1     # vLLM, llama-server, Ollama, ...
      export GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8801 TOGETHER_BASE_URL=http://127.0.0.1:8802
      export DEEPINFRA_BASE_URL=http://127.0.0.1:8803/deepinfra
      export GEMINI_API_KEY=local TOGETHER_API_KEY=local DEEPINFRA_API_KEY=local NO_PROXY=127.0.0.1

    \b
    As a service: several model servers, one name for each model, /healthz and /metrics on every port.
      batchgen serve --backend http://gpu1:8000/v1 --backend http://gpu2:8000/v1 --data-dir /var/lib/batchgen-serve \\
        --models meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo=meta-llama/Llama-3.1-8B-Instruct
    """
    from batchgen.cli.serving import Serving
    from batchgen.cli.serving import serve as run

    run(Serving(**asked))


@click.command(short_help="The whole pipeline on example seeds: no key, no network.")
@click.option(
    "--conversations",
    type=click.IntRange(1, 36),
    metavar="N",
    default=10,
    show_default=True,
    help="How many shipped seeds.",
)
@click.option("--backend", default="smollm", show_default=True, help="smollm, scripted, or the URL of a chat server.")
@click.option("--output", type=UserPath(), default=Path("demo"), show_default=True, help="Root folder of the demo.")
@click.pass_obj
def demo(context: GlobalOptions, conversations: int, backend: str, output: Path) -> None:
    """Run the whole pipeline on example seeds, through the local service. Needs no key and no network.

    The text comes from a very small model (SmolLM2, 135 million parameters) and is for demonstration only.
    """
    from batchgen.cli.demo import demo as run

    live = not context.quiet and bool(table_width(sys.stderr))
    run(output.absolute(), conversations, backend, live=live, say=click.echo)
