"""A chat server to put behind `serve`: OpenAI's /v1/chat/completions over real HTTP on loopback, in a thread.

It takes its time and misbehaves as it is told; it remembers what it was asked. It is no model.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self

MODEL = "upstream/model"
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error"}


class Reply(NamedTuple):
    """What a request gets: a status, a wish to wait, a body; `hang` and `drop` are for requests that get nothing."""

    status: int = 200
    retry_after: str = ""
    body: bytes | None = None
    hang: bool = False
    drop: bool = False


Behaviour = Callable[[str, int], Reply]  # (the last message, how often it was asked before) -> Reply


def kind(_asked: str, _before: int) -> Reply:
    """A server that always answers."""
    return Reply()


class Upstream:
    """A context manager. `asked` counts requests by their last message, `peak` is the most that were in flight,
    `keys` are the Authorization headers that came, `models` the models that were asked.

    seconds   how long every answer takes
    gather    nobody is answered before so many requests have been in flight at once
    """

    def __init__(
        self, *, seconds: float = 0.0, gather: int = 1, text: str = "I heard: ", behaviour: Behaviour = kind
    ) -> None:
        self.seconds, self.gather, self.text, self.behaviour = seconds, gather, text, behaviour
        self._gathered = asyncio.Event()
        self._news = threading.Condition()
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.models: set[str] = set()
        self.peak = self._flying = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="upstream")
        self._tasks: set[asyncio.Task[None]] = set()
        self._port = 0
        self._server: asyncio.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self) -> None:
        """Listen; after a `shut` on the same port."""
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(10)

    def shut(self) -> None:
        """Refuse connections and drop those there are."""
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)

    def until_answered(self, count: int, seconds: float = 60.0) -> None:
        """Wait until `count` requests were answered."""
        with self._news:
            assert self._news.wait_for(lambda: self.answered.total() >= count, seconds), self.answered.total()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, backlog=1024)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _shut(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lengths = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        body = await reader.readexactly(int(lengths[0].partition(":")[2])) if lengths else b""
        said = [line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("authorization:")]
        self.keys.update(said)
        if head.startswith("GET "):
            found = head.startswith("GET /v1/models ")
            models = json.dumps({"data": [{"id": MODEL}]}).encode()
            await _send(writer, Reply(body=models) if found else Reply(404, body=b"{}"))
            return True
        reply = await self._answer(json.loads(body))
        if not reply.drop:
            await _send(writer, reply)
        return not reply.drop

    async def _answer(self, request: dict[str, Any]) -> Reply:
        message = str(request["messages"][-1]["content"])
        self.models.add(str(request.get("model")))
        before = self.asked[message]
        self.asked[message] += 1
        self._flying += 1
        self.peak = max(self.peak, self._flying)
        try:
            if self._flying >= self.gather:
                self._gathered.set()
            await self._gathered.wait()
            reply = self.behaviour(message, before)
            await asyncio.sleep(3600 if reply.hang else self.seconds)
        finally:
            self._flying -= 1
        if reply.status == 200 and reply.body is None and not reply.drop:
            with self._news:
                self.answered[message] += 1
                self._news.notify_all()
            return reply._replace(body=_completion(self.text + message))
        return reply


def _completion(text: str) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return json.dumps({"object": "chat.completion", "model": MODEL, "choices": [choice], "usage": usage}).encode()


async def _send(writer: asyncio.StreamWriter, reply: Reply) -> None:
    body = reply.body if reply.body is not None else b'{"error": {"message": "no"}}'
    wish = f"Retry-After: {reply.retry_after}\r\n" if reply.retry_after else ""
    reason = REASONS.get(reply.status, "Unknown")
    head = f"HTTP/1.1 {reply.status} {reason}\r\nContent-Type: application/json\r\n"
    writer.write(f"{head}{wish}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
