"""A real service for tests: a process of its own, over a home whose models were exported."""

import json
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import httpx

from captcha_assets.models import onnx_export, registry
from captcha_assets.paths import Paths
from captcha_assets_tests.models.conftest import make_model
from captcha_assets_tests.training.examples import draw_many

COMMAND = Path(sys.executable).with_name("captcha-assets")
#: Seconds that a service may take to start on a busy machine.
_LONGEST_START = 120
MODELS = 3


def make_home(folder: Path) -> None:
    """Fill a home with models that were never trained, each exported; the first one is champion."""
    paths, images = Paths(home=folder), draw_many(20)[0]
    for seed in range(MODELS):
        made = folder / ".scratch" / str(seed)
        make_model(made, seed)
        model_id = registry.add_candidate(paths.models, made)
        onnx_export.export(made, paths.onnx_model(model_id), images)
    shutil.rmtree(folder / ".scratch")
    registry.promote(paths.models, registry.list_models(paths.models)[0], "the first")


def png_files(number: int, seed: int = 0) -> list[bytes]:
    """Return images as PNG files."""
    return [cv2.imencode(".png", image)[1].tobytes() for image in draw_many(number, seed)[0]]


@dataclass
class RunningService:
    """A service that runs over a home."""

    url: str
    home: Path
    process: "subprocess.Popen[bytes]"

    @property
    def paths(self) -> Paths:
        return Paths(home=self.home)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str, **options) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def post(self, path: str, **options) -> httpx.Response:
        return httpx.post(self.url + path, timeout=30, **options)

    def predict(self, image: bytes, **headers: str) -> httpx.Response:
        return self.post("/v1/predict", content=image, headers={"Content-Type": "image/png", **headers})

    def wait_ready(self, version: str | None = None, seconds: float = 30) -> float:
        """Wait until a model answers, or the one named; return the seconds that it took."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            answer = self.get("/v2/health/ready")
            if answer.status_code == 200 and version in (None, answer.json()["model_version"]):
                return time.monotonic() - started
            time.sleep(0.05)
        raise AssertionError(f"not ready after {seconds} s: {answer.text}")

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels as Prometheus writes them."""
        (value,) = re.findall(rf"(?m)^{re.escape(name)} (\S+)$", self.get("/metrics").text) or ["0"]
        return float(value)

    def memory(self) -> int:
        """Resident bytes of the process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def alerts(self) -> list[dict]:
        path = self.paths.alerts
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def running(home: Path, *, ready: bool = True, **settings: object) -> Iterator[RunningService]:
    """Run a service over a home, with settings by their names; it must end well when it is interrupted."""
    environment = {**os.environ, "CAPTCHA_HOME": str(home)}
    environment |= {f"CAPTCHA_SERVING_{name.upper()}": str(value) for name, value in settings.items()}
    errors = (home / "service.log").open("ab")
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0"], env=environment, stdout=subprocess.PIPE, stderr=errors
    )
    try:
        service = RunningService(_address(process), home, process)
        if ready:
            service.wait_ready()
        yield service
        assert process.poll() is None, (home / "service.log").read_text()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert "Traceback" not in (home / "service.log").read_text()
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
        errors.close()


def _address(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        assert selector.select(_LONGEST_START), "the service does not start"
    said = process.stdout.readline().decode()
    found = re.search(r"http://\S+", said)
    assert found, said
    url = found.group()
    for _ in range(_LONGEST_START * 10):
        try:
            httpx.get(f"{url}/v2/health/live", timeout=30)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return url
    raise AssertionError("the service does not answer")
