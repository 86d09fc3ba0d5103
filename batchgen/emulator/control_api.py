"""Control a service in another process: /_control/ on any port, only with `serve --control`.

No key is needed. A body is sent as application/json.

POST /_control/faults: one fault or a list of them as JSON (see `faults.parse_faults`).

DELETE /_control/faults: remove all faults.

GET /_control/world: counts of jobs, create calls and bought keys.

POST /_control/advance: {"seconds": 60} moves the clock of the service.

POST /_control/options: any of OPTIONS or SET_OPTIONS with its value.
"""

from __future__ import annotations

from typing import Any

import msgspec

from batchgen.emulator.engine import advance_jobs
from batchgen.emulator.errors import ApiError
from batchgen.emulator.faults import parse_faults
from batchgen.emulator.http_values import Request, Response, json_response
from batchgen.emulator.state import World

PREFIX = "/_control/"
OPTIONS = frozenset(
    {"job_seconds", "file_processing_seconds", "mime_refusal", "deduplicate", "page_size", "empty_last_page"}
    | {"max_active_jobs", "cancelling_seconds"}
)
SET_OPTIONS = frozenset({"gone_models", "refused_mime_types", "served_models", "valid_keys"})


def handle(request: Request, world: World) -> Response:
    """Answer one control request; an invalid one gets status 400 and the error."""
    action = (request.method, request.path.removeprefix(PREFIX))
    try:
        with world.lock:
            return json_response(_dispatch(action, request.json() if request.body else {}, world))
    except (msgspec.ValidationError, KeyError, ApiError) as error:
        return json_response({"error": repr(error)}, 400)


def _dispatch(action: tuple[str, str], body: Any, world: World) -> Any:
    match action:
        case ("POST", "faults"):
            faults = parse_faults(body)
            world.faults.add(*faults)
            return {"added": len(faults)}
        case ("DELETE", "faults"):
            world.faults.clear()
            return {}
        case ("GET", "world"):
            advance_jobs(world)
            return world.summary()
        case ("POST", "advance"):
            world.advance(float(body["seconds"]))
            advance_jobs(world)
            return {"now": world.now()}
        case ("POST", "options"):
            return _set_options(body, world)
        case _:
            raise KeyError(action)


def _set_options(options: dict[str, Any], world: World) -> dict[str, Any]:
    for name, value in options.items():
        if name not in OPTIONS | SET_OPTIONS:
            raise KeyError(name)
        setattr(world, name, set(value) if name in SET_OPTIONS and value is not None else value)
    return options
