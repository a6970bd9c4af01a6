"""A stand-in for the API server of Kubernetes: a pod is a process of this machine that runs its command.

It answers what a client of pods asks: create, list, log, delete. A pod that does not follow the schema of
Kubernetes is rejected, as the real server does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate
import yaml

VERSION = "1.34"


def now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


@dataclass
class Pod:
    """A pod, and the process of its container; none where its image cannot be pulled."""

    body: dict[str, Any]
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _state(self) -> dict[str, Any]:
        if self.process is None:
            return {"waiting": {"reason": "ErrImagePull", "message": "no such image"}}
        status = self.process.poll()
        if status is None:
            return {"running": {"startedAt": now()}}
        return {"terminated": {"exitCode": status if status >= 0 else 128 - status, "reason": "Completed"}}

    def described(self) -> dict[str, Any]:
        container = self.body["spec"]["containers"][0]
        one = {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "restartCount": 0,
            "ready": self.process is not None and not self.ended,
            "state": self._state(),
        }
        return {**self.body, "status": {"phase": "Running", "containerStatuses": [one]}}

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


@dataclass
class ApiServer:
    """The pods of a cluster, and what clients may do."""

    folder: Path
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    images: set[str] = field(default_factory=lambda: {"registry.example/captcha-assets-training:1"})
    pods: dict[str, Pod] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    forbidden: bool = False
    address: str = ""

    def create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        try:
            kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **body}, VERSION, strict=True)
        except kubernetes_validate.ValidationError as error:
            return 422, status(422, "Invalid", str(error))
        pod = Pod(body, self.folder / f"{body['metadata']['name']}.log")
        container = body["spec"]["containers"][0]
        if container["image"] in self.images:
            pod.process = self._started(pod, container)
        self.pods[pod.name] = pod
        self.created.append(body)
        return 201, pod.described()

    def _started(self, pod: Pod, container: dict[str, Any]) -> "subprocess.Popen[bytes]":
        variables = {one["name"]: one["value"] for one in container["env"]}
        for source in container.get("envFrom", []):
            variables |= self.secrets[source["secretRef"]["name"]]
        own = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        place = self.folder / pod.name
        place.mkdir()
        command = [sys.executable, *container["command"][1:]]  # `python` of the image
        with pod.log.open("wb") as log:
            return subprocess.Popen(
                command, env={**own, "TMPDIR": str(place), **variables}, stdout=log, stderr=log
            )

    def selected(self, query: dict[str, list[str]]) -> list[dict[str, Any]]:
        found = list(self.pods.values())
        for selector in query.get("fieldSelector", []):
            found = [pod for pod in found if f"metadata.name={pod.name}" == selector]
        for selector in query.get("labelSelector", []):
            label, _, value = selector.partition("=")
            found = [pod for pod in found if pod.body["metadata"]["labels"].get(label) == value]
        return [pod.described() for pod in found]

    def delete(self, name: str) -> tuple[int, dict[str, Any]]:
        if name not in self.pods:
            return 404, status(404, "NotFound", name)
        pod = self.pods[name]

        def end() -> None:
            pod.stop()
            self.pods.pop(name, None)

        threading.Thread(target=end).start()
        return 200, pod.described()

    def kill_node(self) -> None:
        """Lose the node of every pod."""
        for pod in self.pods.values():
            if pod.process:
                pod.process.send_signal(signal.SIGKILL)


def status(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": message}


def _handler(server: ApiServer) -> type[BaseHTTPRequestHandler]:  # noqa: C901 - one small method for each verb
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, code: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            address = urlsplit(self.path)
            parts = address.path.split("/")
            if server.forbidden:
                self._answer(403, status(403, "Forbidden", "no"))
            elif parts[-1] == "log":
                self._log(server.pods[parts[-2]])
            elif parts[-2] == "pods":
                self._answer(200, server.pods[parts[-1]].described())
            else:
                items = server.selected(parse_qs(address.query))
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(*server.create(body))

        def do_DELETE(self) -> None:
            self._answer(*server.delete(self.path.partition("?")[0].split("/")[-1]))

        def _log(self, pod: Pod) -> None:
            """Stream the log until the container has ended."""
            self.send_response(200)
            self.end_headers()
            with pod.log.open("rb") as log:
                rest = b""
                while True:
                    ended = pod.ended
                    rest += log.read()
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        self.wfile.write(now().encode() + b" " + line + b"\n")
                    if ended:
                        return
                    time.sleep(0.1)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
            """Say nothing."""

    return Handler


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Run an API server; its kubeconfig is `folder/kubeconfig`."""
    found = ApiServer(folder)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(found))
    http.daemon_threads = True
    threading.Thread(target=http.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{http.server_port}"
    write_kubeconfig(folder / "kubeconfig", found.address)
    try:
        yield found
    finally:
        http.shutdown()
        http.server_close()
        for pod in list(found.pods.values()):
            pod.stop()


def write_kubeconfig(path: Path, address: str) -> None:
    """Write a kubeconfig of one cluster."""
    name = {"name": "test"}
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{**name, "cluster": {"server": address}}],
                "users": [{**name, "user": {"token": "secret"}}],
                "contexts": [{**name, "context": {"cluster": "test", "user": "test"}}],
                "current-context": "test",
            }
        )
    )
