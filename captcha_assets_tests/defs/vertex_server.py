"""A stand-in for the REST interface of Vertex AI: a custom job is a process that runs its command."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PARENT = "projects/my-project/locations/europe-west4"


@dataclass
class Job:
    """A custom job, and the process of its container."""

    body: dict[str, Any]
    process: "subprocess.Popen[bytes]"
    canceled: bool = False

    def described(self) -> dict[str, Any]:
        status = self.process.poll()
        if status is None:
            return {**self.body, "state": "JOB_STATE_RUNNING"}
        if self.canceled:
            return {**self.body, "state": "JOB_STATE_CANCELLED"}
        if status == 0:
            return {**self.body, "state": "JOB_STATE_SUCCEEDED"}
        said = f"The replica workerpool0-0 exited with a non-zero status of {status}. See the logs."
        return {**self.body, "state": "JOB_STATE_FAILED", "error": {"code": 3, "message": said}}


@dataclass
class Vertex:
    """The custom jobs of a project, what its clients may do, how many of the next looks are not answered."""

    folder: Path
    jobs: dict[str, Job] = field(default_factory=dict)
    forbidden: bool = False
    unavailable: int = 0
    tokens: int = 0

    def refusal(self, authorization: str | None) -> tuple[int, str] | None:
        if self.unavailable:
            self.unavailable -= 1
            return 503, "The service is unavailable."
        if self.forbidden or authorization != "Bearer a-token":
            return 403, "Permission 'customJobs.list' denied.\nMore."
        return None

    def create(self, body: dict[str, Any]) -> dict[str, Any]:
        name = f"{PARENT}/customJobs/{len(self.jobs) + 1}"
        (pool,) = body["jobSpec"]["workerPoolSpecs"]
        container, place = pool["containerSpec"], self.folder / name.rpartition("/")[2]
        place.mkdir()
        # In a container each has a /tmp of its own.
        command = [sys.executable, *(word.replace("/tmp/", f"{place}/") for word in container["command"][1:])]
        variables = {one["name"]: one["value"] for one in container["env"]}
        messages = variables.get("DAGSTER_PIPES_MESSAGES")
        if messages:
            from dagster_pipes import decode_env_var, encode_env_var

            told = decode_env_var(messages)
            variables["DAGSTER_PIPES_MESSAGES"] = encode_env_var(
                {"path": told["path"].replace("/tmp/", f"{place}/")}
            )
        environment = {**os.environ, "TMPDIR": str(place), **variables}
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        self.jobs[name] = Job({"name": name, **body}, process)
        return {**self.jobs[name].body, "state": "JOB_STATE_PENDING"}

    def listed(self, wanted: str) -> list[dict[str, Any]]:
        label, _, value = wanted.removeprefix("labels.").partition("=")
        return [job.described() for job in self.jobs.values() if job.body["labels"].get(label) == value]

    def cancel(self, name: str) -> dict[str, Any]:
        self.jobs[name].canceled = True
        self.jobs[name].process.terminate()
        return {}

    def get(self, path: str, query: dict[str, list[str]]) -> dict[str, Any]:
        if path == f"{PARENT}/customJobs":
            return {"customJobs": self.listed(query["filter"][0])}
        return self.jobs[path].described()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == f"{PARENT}/customJobs":
            return self.create(body)
        found = re.fullmatch(r"(.*):cancel", path)
        assert found
        return self.cancel(found[1])


def _handler(vertex: Vertex) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _is_allowed(self) -> bool:
            refusal = vertex.refusal(self.headers["Authorization"])
            if refusal:
                status, message = refusal
                self._answer(status, {"error": {"code": status, "message": message}})
            return refusal is None

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if self._is_allowed():
                self._answer(200, vertex.get(address.path.removeprefix("/v1/"), parse_qs(address.query)))

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/token":
                vertex.tokens += 1
                self._answer(200, {"access_token": "a-token", "expires_in": 3600, "token_type": "Bearer"})
            elif self._is_allowed():
                self._answer(200, vertex.post(self.path.removeprefix("/v1/"), json.loads(content)))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing."""

    return Handler


@contextmanager
def vertex_server(folder: Path) -> Iterator[tuple[Vertex, dict[str, str]]]:
    """Run a stand-in; yield it with the variables that lead a client there, credentials included."""
    found = Vertex(folder)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{http.server_port}"
    (folder / "credentials.json").write_text(json.dumps(_service_account(f"{address}/token")))
    try:
        yield (
            found,
            {
                "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"{address}/",
                "GOOGLE_APPLICATION_CREDENTIALS": str(folder / "credentials.json"),
            },
        )
    finally:
        http.shutdown()
        http.server_close()
        for job in found.jobs.values():
            job.process.kill()
            job.process.wait()


def _service_account(token_uri: str) -> dict[str, str]:
    """Return the key file of a service account that was made now, and that nothing but the stand-in knows."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key": key.decode(),
        "client_email": "trainer@my-project.iam.gserviceaccount.com",
        "token_uri": token_uri,
    }
