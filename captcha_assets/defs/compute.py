"""The resource `compute`: it runs trainings on this machine or a remote host, over Dagster Pipes."""

import subprocess
import sys
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
from captcha_assets.training import remote_host
from captcha_assets.training.__main__ import is_done
from captcha_assets.training.config import TrainingJob
from captcha_assets.training.failures import process_error
from captcha_assets.training.remote_host import RemoteHost, Staged


class Compute(Protocol):
    """Runs trainings."""

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train in a process of its own; its progress goes to the run's log.

        The model is then in `job.output`; there is none where the trial was pruned.
        The same job, started again, resumes an interrupted training from its checkpoint.

        Returns:
            The report of the process at its end.

        Raises:
            TrainingFailedError: with the message of the training process.
            RemoteHostError: the remote host failed, not the training.
            TrainingStoppedError: the process was ended from outside.
        """
        ...


def compute_of(settings: Settings) -> Compute:
    """Return the compute resource that the settings name."""
    if settings.compute == "local":
        return LocalCompute()
    return RemoteCompute(
        RemoteHost.of(settings.compute, settings.compute_python, settings.compute_ssh_config)
    )


def _without_preview_warning() -> None:
    # Dagster's own Pipes client calls it: nothing that a user could act on. While definitions are loaded,
    # filters do not last.
    warnings.filterwarnings("ignore", ".*PipesMessageReader.expected_writer_count", dg.PreviewWarning)


@dataclass(frozen=True)
class LocalCompute:
    """Trains on this machine."""

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
            # Dagster's exception has the exit status in its message only.
            status = int(str(error).rpartition(" ")[2])
        else:
            return [dict(message) for message in ended.get_custom_messages()]
        # Outside of the block, so that Dagster's own exception, which says less, is not shown beneath.
        why = path.with_suffix(".error")
        raise process_error(status, "", why.read_text().strip() if why.exists() else None)


class _Lines(dg.PipesMessageReader):
    """Reads the messages from the lines that a process writes to its standard output."""

    #: The last error that was reported.
    error: str | None = None

    @contextmanager
    def read_messages(self, handler: PipesMessageHandler) -> Iterator[dict[str, Any]]:
        self.handler = handler
        yield {"stdio": "stdout"}

    def read(self, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Forward the messages of a training, and return how it ended; None where the connection broke."""
        assert process.stdout is not None
        for raw in process.stdout:
            line = raw.decode(errors="replace").rstrip("\n")
            if ended := remote_host.end_in(line):
                return ended
            extract_message_or_forward_to_stdout(self.handler, line)
            self.error = remote_host.error_in(line) or self.error
        return None

    def no_messages_debug_text(self) -> str:
        return "Attempted to read messages from the output of ssh."


@dataclass(frozen=True)
class RemoteCompute:
    """Trains on a host that `ssh` reaches; its disk keeps the checkpoints until the model is fetched."""

    host: RemoteHost

    def run(self, context: dg.AssetExecutionContext, job: TrainingJob) -> list[dict[str, Any]]:
        """Train on the remote host; see `Compute`."""
        # The caller removes this folder with the model.
        job.output.parent.mkdir(parents=True, exist_ok=True)
        if is_done(job):
            context.log.info(f"{job.output} is the model of this very job already")
            return []
        staged = remote_host.stage(self.host, job, context.log.info)
        messages = self._train(context, staged)
        if not any(one.get("stopped") for one in messages):
            remote_host.fetch(self.host, staged, job.output)
        remote_host.remove(self.host, staged)
        return messages

    def _train(self, context: dg.AssetExecutionContext, staged: Staged) -> list[dict[str, Any]]:
        _without_preview_warning()
        lines = _Lines()
        with dg.open_pipes_session(context, dg.PipesEnvContextInjector(), lines) as session:
            request = {**staged.request, "environment": session.get_bootstrap_env_vars()}
            process = self.host.start(request, None)
            context.log.info(f"training on {self.host.host}, in {staged.job['output']}")
            with remote_host.heartbeat(process):
                ended = lines.read(process)
        remote_host.check_end(self.host, ended, lines.error)
        return [dict(message) for message in session.get_custom_messages()]
