"""The processes of a home: commands, the service, the UI with its daemon."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from captcha_assets.models import promotion_records, registry
from captcha_assets.paths import Paths
from captcha_assets.sources.batch_registration import known_batches

T = TypeVar("T")

#: As `configs/demo.yaml`.
NARROW = {"channels": [16, 32, 64, 128], "sample_size": None}


class LoopError(RuntimeError):
    """A step that failed; the message says which, and why."""


class Home:
    """A home, and what is done in it from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.paths = Paths(home=self.folder)
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("CAPTCHA_", "DAGSTER_"))
        }
        reports = f"http://localhost:{_free_port()}"
        self._environment = {**others, "CAPTCHA_HOME": str(self.folder), "CAPTCHA_REPORTS_URL": reports}

    def write_training_settings(self, epochs: int) -> None:
        """Make a small training the production settings."""
        self.paths.training_settings.parent.mkdir(exist_ok=True)
        self.paths.training_settings.write_text(yaml.safe_dump({**NARROW, "epochs": epochs}))

    def command(self, *arguments: str) -> str:
        """Run a command of `captcha-assets`, and return what it prints.

        Raises:
            LoopError: it failed.
        """
        done = subprocess.run(
            _command(*arguments), env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LoopError(f"captcha-assets {' '.join(arguments)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def status(self) -> dict[str, Any]:
        """Return what `captcha-assets status` says."""
        return dict(json.loads(self.command("status", "--json")))

    @contextmanager
    def service(self) -> Iterator[str]:
        """Run the service, and yield its address once the champion answers."""
        with self._process("service", "serve", "--port", "0") as log:
            address = _wait_for(
                lambda: _address(log.read_text()), 120, f"the service does not start: see {log}"
            )
            _wait_for(lambda: "answers now" in log.read_text(), 120, f"no champion answers: see {log}")
            yield address

    @contextmanager
    def daemon(self) -> Iterator[None]:
        """Run the UI with its daemon."""
        with self._process("daemon", "ui", "--port", str(_free_port())):
            yield

    @contextmanager
    def _process(self, name: str, *arguments: str) -> Iterator[Path]:
        """Run a command beside, and yield the file of what it prints."""
        path = self.folder / f"{name}.log"
        with path.open("w") as log:
            process = subprocess.Popen(
                _command(*arguments), env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield path
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)

    def drift_report(self) -> dict[str, Any]:
        """Return the result of the latest drift report."""
        latest = max(self.paths.drift_reports.iterdir())
        return dict(json.loads((latest / "drift.json").read_text()))

    def wait_for_alert(self, title: str, seconds: float) -> dict[str, Any]:
        """Return the first alert whose title ends so."""

        def alert() -> dict[str, Any] | None:
            lines = self.paths.alerts.read_text().splitlines() if self.paths.alerts.exists() else []
            return next((one for one in map(json.loads, lines) if one["title"].endswith(title)), None)

        return _wait_for(alert, seconds, f"no alert after {seconds} s: see {self.folder}/daemon.log")

    def batches(self) -> list[str]:
        """Return the registered batches."""
        return sorted(known_batches(self.paths))

    def not_promoted(self) -> str | None:
        """Return why the candidate was not promoted; None where it was, or is not compared yet."""
        candidate = registry.pointed_at(self.paths.models)
        decision = promotion_records.last(self.paths.models, candidate) if candidate else None
        return decision.reason if decision and not decision.promoted else None


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.executable).with_name("captcha-assets")), *arguments]


def _address(log: str) -> str | None:
    words = (word for word in log.split() if word.startswith("http://"))
    return next(words, None)


def _wait_for(look: Callable[[], T | None], seconds: float, problem: str) -> T:
    until = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > until:
            raise LoopError(problem)
        time.sleep(1)
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
