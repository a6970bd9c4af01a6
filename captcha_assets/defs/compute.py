"""Where trainings run: the resource `compute` of the assets that train. Both ways speak Dagster Pipes."""

import json
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import dagster as dg

from captcha_assets.defs.dagster_internals import (
    DagsterPipesExecutionError,
    PipesMessageHandler,
    extract_message_or_forward_to_stdout,
)
from captcha_assets.settings import Settings
from captcha_assets.training import elsewhere, far
from captcha_assets.training.__main__ import STATUS_DISK_FULL, is_done
from captcha_assets.training.config import TrainingJob
from captcha_assets.training.elsewhere import Machine, MachineError, Staged

#: Seconds between the signs of life that the far side waits for.
_HEARTBEAT = 10.0


class TrainingFailedError(RuntimeError):
    """A training that came to no end; the message says why."""


class TrainingStoppedError(RuntimeError):
    """A training whose process was ended from outside; the same training, started again, continues."""


class MachineFailedError(TrainingFailedError):
    """The machine failed, not the training; the message says what to do."""


class Compute(Protocol):
    """A machine that trains."""

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train to the end in a process of its own; its progress goes to the run's log.

        The model lies in `job.output` then; there is none where the training was below a pruning threshold.
        The same job, started again, goes on where an interrupted one was.

        Returns:
            What the process reports at its end.

        Raises:
            TrainingFailedError: in the words of the training process.
            MachineFailedError: it could not be run.
            TrainingStoppedError: the process was ended from outside.
        """
        ...


def compute_of(settings: Settings) -> Compute:
    """The machine that the settings name."""
    if settings.compute == "local":
        return ThisMachine()
    return OverSsh(Machine.of(settings.compute, settings.compute_python, settings.compute_ssh_config))


def _without_preview_warning() -> None:
    # Dagster's own Pipes client calls it: nothing that a user could act on. While definitions are loaded,
    # filters do not last.
    warnings.filterwarnings("ignore", ".*PipesMessageReader.expected_writer_count", dg.PreviewWarning)


@dataclass(frozen=True)
class ThisMachine:
    """Trains here."""

    pipes: dg.PipesSubprocessClient = field(
        default_factory=lambda: dg.PipesSubprocessClient(
            forward_termination=True, termination_timeout_seconds=20
        )
    )

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train on this machine; see `Compute`."""
        path = job.output.parent / "job.json"
        job.save(path)
        _without_preview_warning()
        command = [sys.executable, "-m", "captcha_assets.training", str(path)]
        try:
            ended = self.pipes.run(context=context, command=command)
        except DagsterPipesExecutionError as error:
            # Dagster's exception says the exit status in words alone.
            status = int(str(error).rpartition(" ")[2])
        else:
            return [dict(message) for message in ended.get_custom_messages()]
        # Outside of the block: what Dagster raised would stand beneath, and say less.
        why = path.with_suffix(".error")
        raise _ended(status, "", why.read_text().strip() if why.exists() else None)


def _ended(status: int, where: str, said: str | None) -> Exception:
    """What to raise for a training process that ended with an error.

    Args:
        status: its exit status; negative for the signal that killed it.
        where: " on HOST", or empty for this machine.
        said: its own words, where it came to say any.
    """
    number = -status if status < 0 else status - 128
    if not said and number in set(signal.Signals):
        name = signal.Signals(number).name
        hint = ": perhaps the memory did not suffice, lower batch_size" if number == signal.SIGKILL else ""
        return TrainingStoppedError(
            f"the training process{where} was ended from outside by {name}{hint}; start the training again "
            "and it continues from its last checkpoint, if it finished an epoch"
        )
    if not said and status == STATUS_DISK_FULL:
        said = "no space left on the disk or in the quota: free some and run it again"
    return TrainingFailedError(
        said
        or f"the training process{where} ended with status {status} and did not say why: "
        "its output stands in the run's log"
    )


class _Lines(dg.PipesMessageReader):
    """Takes the messages out of the lines that a process writes to its standard output."""

    #: The last error that was reported.
    error: str | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[dict[str, Any]]:
        self.handler = handler
        yield {"stdio": "stdout"}

    def read(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Pass on what a training says, and return how it ended, where it came to say so."""
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            if line.startswith(far.END):
                return dict(json.loads(line.removeprefix(far.END)))
            extract_message_or_forward_to_stdout(self.handler, line)
            self.error = _error_in(line) or self.error
        return None

    def no_messages_debug_text(self) -> str:
        return "Attempted to read messages from the output of ssh."


def _error_in(line: str) -> str | None:
    """The words of an error, where a line is a message that reports one."""
    try:
        message = json.loads(line)
        told = message["params"]
        if message["method"] == "closed":
            return f"{told['exception']['name']}: {told['exception']['message']}".strip()
        return str(told["message"]).removeprefix("error: ") if told["level"] == "ERROR" else None
    except (ValueError, TypeError, KeyError):
        return None


@contextmanager
def _alive(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Give signs of life as long as the block runs; then hang up, whatever became of it."""
    assert process.stdin is not None
    over, line = threading.Event(), process.stdin.fileno()

    def beat() -> None:
        while not over.wait(_HEARTBEAT):
            try:
                os.write(line, b"\n")
            except BrokenPipeError:
                return

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        elsewhere.hang_up(process, 25)


@dataclass(frozen=True)
class OverSsh:
    """Trains on a machine that `ssh` reaches; its disk keeps the checkpoints until the model is here."""

    machine: Machine

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train over there; see `Compute`."""
        # Whoever takes the model away removes this folder with it.
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if is_done(job):
            context.log.info(f"{job.output} is the model of this very job already")
            return []
        try:
            staged = elsewhere.stage(self.machine, job, context.log.info)
            said = self._train(context, staged)
            if not any(one.get("stopped") for one in said):
                elsewhere.fetch(self.machine, staged, job.output)
            elsewhere.forget(self.machine, staged)
        except MachineError as error:
            raise MachineFailedError(str(error)) from error
        return said

    def _train(self, context: dg.AssetExecutionContext, staged: Staged) -> list[dict[str, Any]]:
        _without_preview_warning()
        lines = _Lines()
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), lines) as session:
            told = {**staged.told, "environment": session.get_bootstrap_env_vars()}
            process = self.machine.start(told, None)
            context.log.info(f"training on {self.machine.host}, in {staged.job['output']}")
            with _alive(process):
                ended = lines.read(process)
        self._check(ended, lines.error)
        return [dict(message) for message in session.get_custom_messages()]

    def _check(self, ended: dict[str, Any] | None, error: str | None) -> None:
        host = self.machine.host
        if ended is None:
            raise MachineError(
                f"the connection to {host} broke: the training there ends itself; start it again and it "
                "goes on from its last checkpoint, if it finished an epoch"
            )
        if ended.get("machine"):
            raise MachineError(f"{host}: {ended['machine']}")
        if ended["status"]:
            raise _ended(int(ended["status"]), f" on {host}", error)
