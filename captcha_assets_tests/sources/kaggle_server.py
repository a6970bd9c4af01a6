"""A local server that answers as Kaggle's API and its file store do, faults included.

kagglehub talks to http://localhost:7777 with KAGGLE_API_ENVIRONMENT=TEST. The API redirects a download
to the store, which is another host (here by its name: 127.0.0.1), sees no credentials, and knows ranges.
"""

import base64
import fcntl
import hashlib
import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PORT = 7777
API = "/api/v1/datasets.DatasetApiService/"


@dataclass
class Request:
    """What a client asked for."""

    path: str
    range: str | None
    authorization: str | None
    user_agent: str | None
    body: dict[str, Any]


@dataclass
class Kaggle:
    """What the server holds, how it misbehaves, and what it was asked.

    Attributes:
        archives: the archive of each version, by its number.
        token: the only one that is accepted.
        statuses: answers of the API instead of the true one, by the name of the call.
        store_status: answer of the file store instead of the file.
        cuts: how many bytes each of the next answers of the store sends before the connection breaks.
        md5: what the store announces instead of the true md5; "" announces none.
        ranges: whether the store knows ranges.
        pause_after: bytes after which the store waits for `go_on`.
    """

    owner: str = "someone"
    slug: str = "letters"
    archives: dict[int, bytes] = field(default_factory=dict)
    token: str = "secret-token"
    statuses: dict[str, int] = field(default_factory=dict)
    error_in_body: bool = False
    api_body: bytes | None = None
    store_status: int | None = None
    cuts: list[int] = field(default_factory=list)
    md5: str | None = None
    damage_once: bool = False
    ranges: bool = True
    length: bool = True
    pause_after: int | None = None
    paused: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[Request] = field(default_factory=list)

    @property
    def dataset(self) -> str:
        return f"{self.owner}/{self.slug}"

    def asked(self, part: str) -> list[Request]:
        return [request for request in self.requests if part in request.path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def kaggle(self) -> Kaggle:
        return self.server.kaggle  # type: ignore[attr-defined]

    def log_message(self, *_: Any) -> None:
        pass

    def _note(self, body: dict[str, Any]) -> None:
        get = self.headers.get
        self.kaggle.requests.append(
            Request(self.path, get("Range"), get("Authorization"), get("User-Agent"), body)
        )

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _fail(self, status: int) -> None:
        body = json.dumps({"code": status, "message": f"server says {status}\nat length"}).encode()
        sent = 200 if self.kaggle.error_in_body else status
        self._answer(sent, body, Content_Type="application/json", Retry_After="30")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._note(body)
        call = self.path.removeprefix(API)
        password = base64.b64encode(b"me:my-key").decode()
        allowed = self.headers.get("Authorization") in (
            f"Bearer {self.kaggle.token}",
            f"Basic {password}",
        )
        if call in self.kaggle.statuses:
            self._fail(self.kaggle.statuses[call])
        elif not allowed:
            self._fail(401)
        elif (body["ownerSlug"], body["datasetSlug"]) != (self.kaggle.owner, self.kaggle.slug):
            self._fail(404)
        elif self.kaggle.api_body is not None:
            self._answer(200, self.kaggle.api_body, Content_Type="text/html")
        elif call == "GetDataset":
            self._view()
        elif body.get("datasetVersionNumber") not in self.kaggle.archives:
            self._fail(404)
        else:
            version = body["datasetVersionNumber"]
            self._answer(302, b"", Location=f"http://127.0.0.1:{PORT}/store/{version}/archive.zip?signed=1")

    def _view(self) -> None:
        answer = {
            "id": 1,
            "ref": self.kaggle.dataset,
            "currentVersionNumber": max(self.kaggle.archives, default=0),
            "totalBytes": 123,
            "lastUpdated": "2024-05-17T10:11:12.345Z",
        }
        self._answer(200, json.dumps(answer).encode(), Content_Type="application/json")

    def do_GET(self) -> None:
        self._note({})
        if self.kaggle.store_status is not None:
            self._answer(self.kaggle.store_status, b"<Error>no</Error>", Content_Type="application/xml")
            return
        archive = self.kaggle.archives[int(self.path.split("/")[2])]
        begin = 0
        wanted = self.headers.get("Range")
        if wanted and self.kaggle.ranges:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if begin >= len(archive):
                self._answer(416, b"")
                return
        self._send(archive, begin)

    def _send(self, archive: bytes, begin: int) -> None:
        kaggle = self.kaggle
        md5 = base64.b64encode(hashlib.md5(archive).digest()).decode() if kaggle.md5 is None else kaggle.md5
        body = archive[begin:]
        if kaggle.damage_once:
            kaggle.damage_once = False
            body = bytes(1000) + body[1000:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "application/zip")
        if kaggle.ranges:
            self.send_header("Accept-Ranges", "bytes")
        if md5:
            self.send_header("x-goog-hash", f"crc32c=AAAAAA==,md5={md5}")
        if kaggle.length:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self._pour(body)
        self.close_connection = True

    def _pour(self, body: bytes) -> None:
        kaggle = self.kaggle
        if kaggle.cuts:
            body = body[: kaggle.cuts.pop(0)]
        elif kaggle.pause_after is not None:
            self.wfile.write(body[: kaggle.pause_after])
            self.wfile.flush()
            body, kaggle.pause_after = body[kaggle.pause_after :], None
            kaggle.paused.set()
            kaggle.go_on.wait(60)
        with suppress(OSError):  # the client may have been killed
            self.wfile.write(body)


@contextmanager
def port() -> Iterator[None]:
    """Hold the port, which is fixed: one test run at a time on this machine."""
    with Path(tempfile.gettempdir(), "captcha-assets-kaggle-server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def serve(kaggle: Kaggle) -> Iterator[Kaggle]:
    """Serve as long as the block runs."""
    with port():
        server = ThreadingHTTPServer(("127.0.0.1", PORT), _Handler)
        server.daemon_threads = True
        server.kaggle = kaggle  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield kaggle
        finally:
            kaggle.go_on.set()
            server.shutdown()
            server.server_close()
            thread.join()
