"""A local double of the Hugging Face hub: the calls of huggingface_hub 2.4.0 for downloads and uploads."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

FIRST_COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_PLANTED0hub0token00000000000000000"
LARGE = (".parquet",)  # the names that go to the large file storage; the hub decides by its .gitattributes
Files = Mapping[str, bytes]


class Fault(NamedTuple):
    """What happens instead of an answer to `times` requests that begin like this: "PUT /lfs/"; `skip` come before.

    Status 0 breaks the connection. `after` breaks it only when the request has had its effect. `call` is called first.
    """

    request: str
    status: int = 0
    words: str = "broken on purpose"
    times: int = 1
    skip: int = 0
    after: bool = False
    call: Callable[[], object] = lambda: None


class Repository:
    """A dataset: its files, whether it is private, and its commits."""

    def __init__(self, files: Files, *, private: bool = False) -> None:
        self.files, self.private, self.commits = dict(files), private, [FIRST_COMMIT]


class Hub:
    """The state of the double. `asked` lists its requests, `bodies` what was sent to it, `stored` its large files."""

    def __init__(self, repositories: Mapping[str, Files]) -> None:
        self.repositories = {name: Repository(files) for name, files in repositories.items()}
        self.stored: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self.url = ""

    def count(self, start: str) -> int:
        return sum(each.startswith(start) for each in self.asked)

    def fault(self, request: str) -> Fault | None:
        """Return the fault that this request meets; it counts down."""
        for place, fault in enumerate(self.faults):
            if fault.skip and request.startswith(fault.request):
                self.faults[place] = fault._replace(skip=fault.skip - 1)
            elif fault.times and request.startswith(fault.request):
                self.faults[place] = fault._replace(times=fault.times - 1)
                return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """Answers a request. Writing, and reading of what is private, needs the token."""

    hub: Hub
    body: bytes
    silent = False  # the request has its effect, and its answer is lost

    def do_GET(self) -> None:
        with self.hub.lock:  # one request after the other
            self._serve()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - the names that http.server calls

    def _serve(self) -> None:
        request = f"{self.command} {self.path}"
        self.body = self._read_body()
        self.hub.asked.append(request)
        self.hub.bodies.append(self.body)
        fault = self.hub.fault(request)
        if fault is not None:
            fault.call()
            if fault.after:
                self.silent = True
                self._route()
            elif fault.status:
                refusal = 400 <= fault.status < 500
                said = json.dumps({"error": fault.words}) if refusal else fault.words
                self.answer(fault.status, said.encode(), {"X-Error-Message": fault.words})
            self.close_connection = True
            return
        self._route()

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        return b"".join(parts)

    def _route(self) -> None:
        path = self.path.split("?")[0].strip("/").split("/")
        if self.command in ("POST", "PUT"):
            self._write(path)
        else:
            self._show(path)

    # ---- reading

    def _show(self, path: list[str]) -> None:
        match path:
            case ["api", "datasets", owner, name, *_] if found := self._visible(f"{owner}/{name}"):
                siblings = [{"rfilename": file} for file in found.files]
                info = {"id": f"{owner}/{name}", "_id": "1", "sha": found.commits[-1], "siblings": siblings}
                self.json({**info, "private": found.private})
            case ["datasets", owner, name, "resolve", _, *file] if found := self._visible(f"{owner}/{name}"):
                self._file(f"cdn/{owner}/{name}/{'/'.join(file)}", found.files.get("/".join(file)), found.commits[-1])
            case ["cdn", owner, name, *file]:
                self.answer(200, self.hub.repositories[f"{owner}/{name}"].files["/".join(file)])
            case ["datasets" | "api", "broken", *_] | ["api", "datasets", "broken", *_]:
                self.answer(403, b"{}", {"X-Error-Message": "broken on purpose"})
            case ["api", "datasets", "html", _]:
                self.answer(200, b"<html>please log in</html>")
            case ["api", "datasets", "json", _]:
                self.answer(200, b"{}")
            case _:
                self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})

    def _visible(self, name: str) -> Repository | None:
        found = self.hub.repositories.get(name)
        return found if found and (self._has_token() or not found.private) else None

    def _has_token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _file(self, location: str, data: bytes | None, commit: str) -> None:
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        port = self.headers["Host"].rpartition(":")[2]
        self.answer(302, b"", {**linked, "Location": f"http://localhost:{port}/{location}"})

    # ---- writing

    def _write(self, path: list[str]) -> None:
        if path[0] != "lfs" and not self._has_token():
            words = "Invalid credentials in Authorization header"
            self.answer(401, json.dumps({"error": words}).encode(), {"X-Error-Message": words})
            return
        match path:
            case ["api", "repos", "create"]:
                self._create(json.loads(self.body))
            case ["api", "validate-yaml"]:
                self._validate(json.loads(self.body)["content"])
            case ["api", "datasets", owner, name, "preupload", "main"]:
                files = json.loads(self.body)["files"]
                self.json({"files": [self._mode(f"{owner}/{name}", each["path"]) for each in files]})
            case ["datasets", _, _, "info", "lfs", "objects", "batch"]:
                self.json({"transfer": "basic", "objects": list(map(self._place, json.loads(self.body)["objects"]))})
            case ["lfs", oid]:
                assert hashlib.sha256(self.body).hexdigest() == oid
                self.hub.stored[oid] = self.body
                self.answer(200, b"")
            case ["api", "datasets", owner, name, "commit", "main"]:
                self._commit(f"{owner}/{name}")
            case _:
                self.answer(404, b"{}")

    def _create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        assert wanted["type"] == "dataset"
        status = 409 if name in self.hub.repositories else 200
        if status == 200:
            start = {".gitattributes": b"*.parquet filter=lfs\n"}
            self.hub.repositories[name] = Repository(start, private=wanted["visibility"] == "private")
        self.json({"url": f"{self.hub.url}/datasets/{name}", "error": "You already created this dataset repo"}, status)

    def _validate(self, content: str) -> None:
        if "license: nonsense" in content:
            message = '"license" must be one of [apache-2.0, mit, ...]'
            self.json({"errors": [{"message": message}], "warnings": []}, 400)
        else:
            self.json({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})

    def _mode(self, repository: str, file: str) -> dict[str, Any]:
        large = file.endswith(LARGE)
        oid = None
        if (data := self.hub.repositories[repository].files.get(file)) is not None:
            blob = b"blob %d\0" % len(data) + data
            oid = hashlib.sha256(data).hexdigest() if large else hashlib.sha1(blob).hexdigest()  # noqa: S324 - git's
        return {"path": file, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _place(self, wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["oid"] in self.hub.stored:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}

    def _commit(self, repository: str) -> None:
        files = {}
        for line in self.body.splitlines():
            said = json.loads(line)
            value = said["value"]
            match said["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                    self.hub.bodies.append(files[value["path"]])
                case "lfsFile":
                    files[value["path"]] = self.hub.stored[value["oid"]]
                case other:
                    assert other == "header"
        found = self.hub.repositories[repository]
        found.files |= files
        found.commits.append(hashlib.sha1(self.body).hexdigest())  # noqa: S324 - as git's
        url = f"{self.hub.url}/datasets/{repository}/commit/{found.commits[-1]}"
        self.json({"success": True, "commitOid": found.commits[-1], "commitUrl": url, "hookOutput": ""})

    # ---- answers

    def json(self, value: Any, status: int = 200) -> None:
        self.answer(status, json.dumps(value).encode())

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        if self.silent:
            return
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@contextmanager
def running_hub(hub: Hub) -> Iterator[tuple[str, list[str]]]:
    """The address of the running hub, and the requests that it received."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (_Handler,), {"hub": hub}))
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that was killed
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub.url, hub.asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
