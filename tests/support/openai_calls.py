"""Plain HTTP calls to the services of OpenAI's shape, and their request lines, for the tests of the emulator."""

from __future__ import annotations

from typing import Any, Self

import httpx2

from batchgen.emulator.server import LocalService
from tests.support.sdk_calls import KEY, LLAMA, NO_TLS, by_key, jsonl

ENDPOINT = "/v1/chat/completions"


class Wire:
    """Plain calls to one service."""

    def __init__(self, service: LocalService, name: str, path: str = "", key: str = KEY) -> None:
        self.client = httpx2.Client(
            base_url=service.service_url(name) + path,
            headers={"Authorization": f"Bearer {key}"},
            timeout=5,
            verify=NO_TLS,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()

    def upload(self, data: bytes, purpose: str = "batch") -> httpx2.Response:
        return self.client.post("/files", files={"file": ("r.jsonl", data)}, data={"purpose": purpose})

    def create(self, source: str, **fields: Any) -> httpx2.Response:
        body = {"input_file_id": source, "endpoint": ENDPOINT, "completion_window": "24h", **fields}
        return self.client.post("/batches", json=body)

    def job(self, rows: int | list[Any] | bytes = 3, **fields: Any) -> str:
        """The id of a new batch of so many requests k0, k1, ..., or of these lines."""
        lines = chat_lines(rows) if isinstance(rows, int) else rows
        data = lines if isinstance(lines, bytes) else jsonl(lines)
        created = self.create(self.upload(data).raise_for_status().json()["id"], **fields)
        return str(created.raise_for_status().json()["id"])

    def get(self, job: str) -> Any:
        return self.client.get(f"/batches/{job}").raise_for_status().json()

    def cancel(self, job: str) -> httpx2.Response:
        return self.client.post(f"/batches/{job}/cancel")

    def content(self, file: str) -> bytes:
        return self.client.get(f"/files/{file}/content").raise_for_status().content

    def rows(self, job: str) -> dict[str, dict[str, Any]]:
        """The rows of both files, by custom_id."""
        batch = self.get(job)
        files = [batch[name] for name in ("output_file_id", "error_file_id") if batch[name]]
        return by_key(b"".join(map(self.content, files)), "custom_id")


def chat_lines(count: int, model: str = LLAMA) -> list[dict[str, Any]]:
    return [
        {
            "custom_id": f"k{number}",
            "method": "POST",
            "url": ENDPOINT,
            "body": {"model": model, "messages": [{"role": "user", "content": f"What is boat {number}?"}]},
        }
        for number in range(count)
    ]
