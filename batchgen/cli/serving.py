"""Implement `serve`: the local batch service in front of a model."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from batchgen.core.errors import SetupError
from batchgen.runtime.logging_setup import add_secret

if TYPE_CHECKING:
    from batchgen.emulator.backends import openai_chat
    from batchgen.emulator.backends.builtin import Backend
    from batchgen.emulator.server import LocalService

log = logging.getLogger("batchgen")

BACKEND_KEY = "BATCHGEN_BACKEND_KEY"  # the key of a model server that needs one
TOKEN = "BATCHGEN_SERVE_TOKEN"  # noqa: S105 - the variable, not the token


class Serving(NamedTuple):
    """The options of `serve`, by their names on the command line."""

    host: str
    token_file: Path | None
    gemini_port: int
    together_port: int
    openai_port: int
    backend: Sequence[str]
    models: Sequence[str]
    data_dir: Path | None
    job_seconds: float
    concurrency: int | None
    grace: float
    control: bool
    allow_host: Sequence[str]


def serve(asked: Serving) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises SetupError for options that do not fit."""
    from batchgen.emulator.server import LocalService, run_service

    token = read_token(asked.token_file, os.environ)
    check_host(asked.host, token)
    names = parse_models(asked.models)
    service = LocalService(
        make_backend(asked.backend, asked.concurrency, names),
        job_seconds=asked.job_seconds,
        data_dir=asked.data_dir,
        host=asked.host,
        token=token,
        gemini_port=asked.gemini_port,
        together_port=asked.together_port,
        openai_port=asked.openai_port,
        log=log.info,
        control=asked.control,
        allow_hosts=asked.allow_host,
    )
    service.world.served_models = set(names) or None
    run_service(service, ready=_log_environment, grace_seconds=asked.grace)


def _log_environment(service: LocalService) -> None:
    token = service.world.token
    log.info("export GOOGLE_GEMINI_BASE_URL=%s TOGETHER_BASE_URL=%s", service.gemini_url, service.together_url)
    log.info("export DEEPINFRA_BASE_URL=%s", service.service_url("deepinfra"))
    keys = " ".join(f"{name}_API_KEY={'TOKEN' if token else 'local'}" for name in ("GEMINI", "TOGETHER", "DEEPINFRA"))
    log.info("export %s NO_PROXY=%s", keys, service.host)
    if token:
        log.info("Only requests with the token are answered. It is the API key of every provider here.")


def read_token(path: Path | None, variables: Mapping[str, str]) -> str:
    """Return the token from the file or the environment, "" if there is none, masked in all output from now on.

    Raises SetupError if the file cannot be read, or holds no token.
    """
    where = f"--token-file {path}" if path else TOKEN
    try:
        token = path.read_text("utf-8").strip() if path else variables.get(TOKEN, "").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SetupError(f"{where}: {why}.", do="It must be a file with the token alone, which you can read.") from None
    add_secret(token)
    if path and not token:
        raise SetupError(f"{where}: the file is empty.", do="Make one: openssl rand -hex 32")
    if not token.isascii() or not token.isprintable() or " " in token:
        raise SetupError(f"{where}: a token has only letters, digits and signs.", do="Make one: openssl rand -hex 32")
    return token


def check_host(host: str, token: str) -> None:
    """Raise SetupError for an address that other machines reach if there is no token."""
    from batchgen.emulator.host_check import is_this_machine

    if not token and not is_this_machine(host.lower()):
        raise SetupError(
            f"--host {host} can be reached from other machines, and there is no token. Without one, anybody there"
            " could read your texts and use your model.",
            do=f"Put a token into {TOKEN} or --token-file FILE (make one: openssl rand -hex 32), or leave --host out.",
        )


def parse_models(given: Sequence[str]) -> dict[str, str]:
    """Return what `--models` says: the served names, and the backend's model for each, "" for its first one.

    Raises SetupError for a value that is neither NAME nor NAME=MODEL, and for a name with two models.
    """
    found: dict[str, str] = {}
    for part in (part.strip() for value in given for part in value.split(",")):
        name, sign, model = part.partition("=")
        if not name or (sign and not model):
            raise SetupError(f"--models {part!r} is not a name.", do="Write NAME, or NAME=MODEL_OF_THE_BACKEND.")
        if found.setdefault(name, model) != model:
            raise SetupError(f"--models names {name} twice.", do="Leave one of them out.")
    return found


def make_backend(
    names: str | Sequence[str], concurrency: int | None = None, models: Mapping[str, str] | None = None
) -> Backend:
    """Return the backend: `smollm`, `scripted`, or the URLs of OpenAI-compatible servers. Raises SetupError.

    `concurrency` rows are sent to each at the same time; None means the default of the backend. `models` maps names
    to models of the servers.
    """
    from batchgen.emulator.backends import builtin, pool
    from batchgen.providers.http_errors import is_http_url

    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    mapped = {name: model for name, model in (models or {}).items() if model}
    if len(names) > 1 and (other := [name for name in names if not is_http_url(name)]):
        raise SetupError(f"--backend {other[0]!r} cannot be one of several.", do="Name addresses only, or it alone.")
    if is_http_url(names[0]):
        servers = {_shown_url(name): _make_server(name, concurrency, mapped) for name in names}
        return pool.Pool(servers, log=log.warning) if len(servers) > 1 else next(iter(servers.values()))
    if mapped:
        first = next(iter(mapped.items()))
        raise SetupError(
            f"--models {'='.join(first)}: {names[0]} has one model only.", do=f"Write --models {first[0]}."
        )
    if names[0] == "scripted":
        return builtin.Scripted()
    if names[0] == "smollm":
        return builtin.SmolLM(parallel=concurrency or builtin.SMOLLM_CONCURRENCY)
    raise SetupError(f"--backend {names[0]!r} is unknown.", do="Use smollm, scripted, or http://HOST:PORT/v1.")


def _make_server(url: str, concurrency: int | None, models: Mapping[str, str]) -> openai_chat.OpenAICompatible:
    """Return one OpenAI-compatible server whose address was checked. Raises SetupError."""
    from batchgen.emulator.backends import openai_chat

    key = os.environ.get(BACKEND_KEY, "").strip()
    add_secret(key)
    parallel = concurrency or openai_chat.CONCURRENCY
    server = openai_chat.OpenAICompatible(url, models=models, api_key=key, parallel=parallel)
    _check_server(server, url, models)
    return server


def _shown_url(url: str) -> str:
    """Return the address of a server without user name, password and query: it is shown in the log and in metrics."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_server(server: openai_chat.OpenAICompatible, url: str, models: Mapping[str, str]) -> None:
    """Check the address of a server before any row is sent, because a wrong one fails every row. Raises SetupError."""
    from batchgen.emulator.backends.builtin import BackendBusy, BackendError

    try:
        listed = server.listed_models()
        log.info("%s answers with %s", _shown_url(url), ", ".join(dict.fromkeys([*models.values()] or listed[:1])))
        # Only a warning: Ollama lists `llama3:latest` and takes `llama3`.
        if missing := sorted(set(models.values()) - set(listed)):
            log.warning("%s does not list %s; rows for it may fail", _shown_url(url), ", ".join(missing))
    except BackendBusy as error:
        log.warning("%s: %s; rows wait until it answers", _shown_url(url), error)
    except (BackendError, KeyError, TypeError, ValueError) as error:
        server.close()
        do = f"It must end in /v1 and answer GET .../models; a key goes into {BACKEND_KEY}."
        raise SetupError(f"--backend {_shown_url(url)}: no OpenAI-compatible server ({error}).", do=do) from None
