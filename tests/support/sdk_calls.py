"""Make request lines, upload them, create jobs and read results with both SDKs, for the tests of the emulator."""

from __future__ import annotations

import io
import ssl
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
from google import genai
from google.genai import types
from together import DefaultHttpxClient, Together

from batchgen.emulator.server import LocalService

KEY = "test-key-0001"
MODEL = "gemini-2.5-flash-lite"
# No call here uses TLS, and a client needs most of its start-up time to load the trusted certificates.
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
LLAMA = "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo"
SCHEMA = {"type": "OBJECT", "properties": {"question": {"type": "STRING"}}, "required": ["question"]}


def gemini_client(service: LocalService, key: str = KEY) -> genai.Client:
    options = types.HttpOptions(
        api_version="v1beta", base_url=service.gemini_url, timeout=5000, client_args={"verify": NO_TLS}
    )
    return genai.Client(vertexai=False, api_key=key, http_options=options)


def together_client(service: LocalService, key: str = KEY) -> Together:
    unverified = DefaultHttpxClient(verify=NO_TLS, timeout=5)
    return Together(api_key=key, base_url=service.together_url, max_retries=0, timeout=5, http_client=unverified)


def raw(service: LocalService, key: str = KEY) -> httpx.Client:
    """Plain HTTP to the Gemini side."""
    return httpx.Client(base_url=service.gemini_url, headers={"x-goog-api-key": key}, timeout=5, verify=NO_TLS)


def jsonl(rows: list[Any]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def gemini_rows(count: int, *, plain: bool = False) -> list[dict[str, Any]]:
    config: dict[str, Any] = {"maxOutputTokens": 64}
    if not plain:
        config |= {"responseMimeType": "application/json", "responseSchema": SCHEMA}
    return [
        {
            "key": f"k{number}",
            "request": {
                "systemInstruction": {"parts": [{"text": "You ask questions."}]},
                "contents": [{"role": "user", "parts": [{"text": f"Harbour {number}: boats, ropes and tides"}]}],
                "generationConfig": config,
            },
        }
        for number in range(count)
    ]


def together_rows(count: int, model: str = LLAMA) -> list[dict[str, Any]]:
    messages = [{"role": "system", "content": "You answer."}]
    return [
        {
            "custom_id": f"k{number}",
            "body": {"model": model, "messages": [*messages, {"role": "user", "content": f"What is boat {number}?"}]},
        }
        for number in range(count)
    ]


def gemini_upload(client: genai.Client, data: bytes) -> str:
    file = client.files.upload(file=io.BytesIO(data), config={"mime_type": "application/jsonl"})
    return str(file.name)


def gemini_job(client: genai.Client, count: int = 3, *, plain: bool = False, name: str = "job") -> str:
    """The name of a new job of `count` requests k0, k1, ..."""
    source = gemini_upload(client, jsonl(gemini_rows(count, plain=plain)))
    return str(client.batches.create(model=MODEL, src=source, config={"display_name": name}).name)


def gemini_output(client: genai.Client, job: str) -> bytes:
    dest = client.batches.get(name=job).dest
    assert dest is not None
    assert dest.file_name is not None
    return client.files.download(file=dest.file_name)


def operation(service: LocalService, job: str, key: str = KEY) -> dict[str, Any]:
    """The raw operation; the SDK leaves out many of its fields."""
    with raw(service, key) as client:
        return dict(client.get(f"/v1beta/{job}").json())


def together_upload(client: Together, data: bytes, name: str = "requests.jsonl") -> str:
    with TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        return client.files.upload(path, purpose="batch-api", check=False).id


def together_create(client: Together, source: str) -> str:
    job = client.batches.create(input_file_id=source, endpoint="/v1/chat/completions").job
    assert job is not None
    assert job.id
    return job.id


def together_job(client: Together, count: int = 3) -> str:
    return together_create(client, together_upload(client, jsonl(together_rows(count))))


def together_output(client: Together, job: str) -> bytes:
    output = client.batches.retrieve(job).output_file_id
    assert output
    return client.files.content(output).read()


def parsed(data: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in data.split(b"\n") if line.strip()]


def by_key(data: bytes, field: str = "key") -> dict[str, dict[str, Any]]:
    return {row[field]: row for row in parsed(data)}


def gemini_text(row: dict[str, Any]) -> str:
    return str(row["response"]["candidates"][0]["content"]["parts"][0]["text"])


def together_text(row: dict[str, Any]) -> str:
    return str(row["response"]["body"]["choices"][0]["message"]["content"])
