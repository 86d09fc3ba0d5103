"""Backend for any OpenAI-compatible server, with its error handling."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from batchgen.emulator.backends.builtin import Answer, BackendBusy, BackendError, Prompt, chat_body, parse_completion

if TYPE_CHECKING:
    import httpx

# Overload, a restart, or a proxy without a free server: the same request may succeed later.
BUSY_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
OWN_FAULT_STATUS = frozenset({408, 500, 504})  # also the status for a prompt that takes too long or crashes the model
CONCURRENCY = 64


class OpenAICompatible:
    """Any server with POST /v1/chat/completions (vLLM, llama-server, Ollama): `parallel` requests at once.

    `url` may end in /v1 or not. `models` maps the model of a row, which is a provider's name, to a model of the server.
    Any other row is answered by `model`; "" is the first model that the server lists. Raises BackendBusy for a server
    that is busy, broken or absent.
    """

    instant = False

    def __init__(
        self,
        url: str,
        *,
        model: str = "",
        models: Mapping[str, str] | None = None,
        api_key: str = "",
        parallel: int = CONCURRENCY,
        timeout_seconds: float = 600,
    ) -> None:
        import httpx

        self.parallel = parallel
        self._model = model
        self._models = models or {}
        self._idle: deque[httpx.Client] = deque()
        # One client per call: 64 threads that share a client wait three times as long for its pool as for the server.
        self._new_client = partial(
            httpx.Client,
            base_url=url.rstrip("/").removesuffix("/v1"),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=min(timeout_seconds, 10)),
            verify=httpx.create_ssl_context(),
        )
        self._closed = False

    def answer(self, prompt: Prompt) -> Answer:
        model = self._models.get(prompt.model)
        if not model:
            model = self._model = self._model or self.first_model()
        body = chat_body(prompt, prompt.max_tokens) | {"model": model}
        return parse_completion(self._call("POST", "/v1/chat/completions", body))

    def first_model(self) -> str:
        """Return the first model that the server lists. Raises BackendBusy, BackendError."""
        return self.listed_models()[0]

    def listed_models(self) -> list[str]:
        """Return the models that the server lists, one at least. Raises BackendBusy, BackendError."""
        listed = self._call("GET", "/v1/models")
        models = listed.get("data") if isinstance(listed, dict) else listed  # Together sends the bare list
        if not models:
            raise BackendError("the model server lists no model")
        return [str(model["id"]) for model in models]

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        import httpx

        client = self._client()
        try:
            response = client.request(method, path, json=body)
        except httpx.RequestError as error:
            own_fault = isinstance(error, httpx.ReadTimeout | httpx.DecodingError)
            said = f"the model server failed: {type(error).__name__} {error}"
            raise BackendBusy(said, affects_all_rows=not own_fault) from error
        finally:
            self._put_back(client)
        if response.status_code in BUSY_STATUS:
            everybody = response.status_code not in OWN_FAULT_STATUS
            raise BackendBusy(
                f"the model server failed: {_error_text(response)}",
                _retry_after_seconds(response),
                affects_all_rows=everybody,
            )
        if not response.is_success:
            raise BackendError(f"the model server failed: {_error_text(response)}")
        try:
            return response.json()
        except ValueError as error:  # a page of a proxy, or an incomplete response
            raise BackendBusy(
                f"the model server sent no JSON: {response.text[:200]}", affects_all_rows=False
            ) from error

    def _client(self) -> httpx.Client:
        try:
            return self._idle.pop()
        except IndexError:
            return self._new_client()

    def _put_back(self, client: httpx.Client) -> None:
        self._idle.append(client)
        if self._closed:
            self.close()

    def close(self) -> None:
        self._closed = True
        with suppress(IndexError):
            while True:
                self._idle.pop().close()


def _error_text(response: httpx.Response) -> str:
    return f"{response.status_code} {response.text[:200]}"


def _retry_after_seconds(response: httpx.Response) -> float:
    """Return Retry-After in seconds; 0 if it is missing or a date."""
    wish = response.headers.get("retry-after", "")
    return float(wish) if wish.isdecimal() else 0.0
