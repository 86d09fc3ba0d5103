"""The answer model on CPUs: the small model of `demo` behind OpenAI's chat completions, on Ray Serve.

It has the same two calls as vLLM on GPUs, so that everything around the model can be tried on any machine. Its texts
are for demonstration only. `serve run deploy/ray/cpu.yaml`, from the repository, starts it.
"""

import time
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from ray import serve

from batchgen.emulator.backends.builtin import BackendError, SmolLM
from batchgen.emulator.protocols.chat_rows import completion, has_messages, parse_prompt

MODEL = "SmolLM2-135M-Instruct"

app = FastAPI()


class Options(BaseModel):
    """What cpu.yaml says about one replica: rows that it answers at once, threads of llama.cpp."""

    rows_at_once: int = 4
    threads: int = 1


# Above the class: Ray copies the class and its calls to the replicas as they are when @serve.ingress runs.
def _bad_request(message: str) -> JSONResponse:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": error}, 400)


@serve.deployment
@serve.ingress(app)
class SmallModel:
    """One replica: one copy of the model. Ray runs its calls in threads, and llama.cpp batches them."""

    def __init__(self, options: Options) -> None:
        self._model = SmolLM(parallel=options.rows_at_once, threads=options.threads)

    @app.get("/v1/models")
    def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 0, "owned_by": "local"}]}

    @app.post("/v1/chat/completions")
    def complete(self, body: dict[str, Any]) -> JSONResponse:
        if not has_messages(body) or body.get("stream"):
            return _bad_request("`messages` must be a list of messages; `stream` is not offered.")
        try:
            answer = self._model.answer(parse_prompt(body))
        except BackendError as error:
            return _bad_request(str(error))
        return JSONResponse(completion(answer, MODEL, int(time.time())))


def build(options: Options) -> serve.Application:
    """Return the application; Ray calls it with the `args` of cpu.yaml."""
    return SmallModel.bind(options)
