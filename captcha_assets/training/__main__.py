"""The training process: `python -m captcha_assets.training JOB.json`, by hand or over Dagster Pipes.

Exit status: 0 when the model folder is written, 2 for a job that cannot be used, 3 when the disk is full,
130 and 143 when interrupted, 1 for anything else, with one line that says why.
"""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from captcha_assets.models import folder
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.training.config import JobError, SettingsError, TrainingError, TrainingJob
from captcha_assets.training.failures import STATUS_DISK_FULL


@dataclass(frozen=True)
class Channel:
    """Where progress lines, errors and the result are sent."""

    report: Callable[[str], None]
    fail: Callable[[str], None]
    result: Callable[[dict[str, Any]], None]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _channel() -> Iterator[Channel]:
    """Yield the channel to Dagster where it started this process, otherwise to the terminal."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield Channel(lambda _: None, _complain, lambda _: None)
    elif "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield Channel(_say, _complain, lambda _: None)
    else:
        from dagster_pipes import open_dagster_pipes  # noqa: PLC0415

        with open_dagster_pipes() as pipes:
            yield Channel(pipes.log.info, pipes.log.error, pipes.report_custom_message)


def _end_with(parent: int, every: float = 0.5) -> None:
    """End this process when its parent ends: without it, the process could not be stopped."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


class _Stop:
    """Stops the process at once on a signal: the last epoch's checkpoint is already on the disk."""

    #: The job, once it was read.
    job: TrainingJob | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        kept = self.job and self.job.last_checkpoint.is_file()
        message = (
            "the last checkpoint is kept, the same job resumes from it"
            if kept
            else "no epoch was finished, so the same job starts from the first epoch"
        )
        os.write(2, f"stopped; {message}\n".encode())
        os._exit(128 + number)


def is_done(job: TrainingJob) -> bool:
    """Say whether an earlier process has written the model of this job."""
    try:
        folder.verify(job.output)
        return folder.read_config(job.output).provenance.get("job") == job.fingerprint
    except ModelFolderError:
        return False


def _train(path: Path, channel: Channel, stop: _Stop) -> None:
    job = stop.job = TrainingJob.load(path)
    if is_done(job):
        channel.report("the model of this very job is there already")
    else:
        # Threads that wait by spinning take the cores from other processes.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from captcha_assets.training.fit import Stopped, Trained, train  # noqa: PLC0415

        ended = train(job, channel.report)
        if isinstance(ended, Stopped):
            channel.result({"stopped": True, "history": ended.history})
        if not isinstance(ended, Trained):
            return
    model_id, metrics = folder.model_id(job.output), folder.read_metrics(job.output)
    channel.report(
        f"{model_id}: validation accuracy {metrics['validation_accuracy']:.4f}, "
        f"temperature {metrics['temperature']:.3f}"
    )
    channel.result({"model_id": model_id, "metrics": metrics, "folder": str(job.output)})


def _write_reason(job: Path, reason: str) -> None:
    """Write why a training failed to `job.error`: the parent process gets only an exit status."""
    with suppress(OSError):
        job.with_suffix(".error").write_text(f"{reason}\n")


def _write_reason_of_defects(job: Path) -> None:
    """Write the reason of an unexpected error too, beside the traceback on standard error."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        _write_reason(job, f"{kind.__name__}: {error} (its traceback stands in the run's standard error)")
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook


def main(arguments: list[str]) -> int:
    """Train by the job file and return the exit status."""
    _end_with(os.getppid())
    stop = _Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    if len(arguments) != 1:
        _complain("usage: python -m captcha_assets.training JOB.json")
        return 2
    path = Path(arguments[0])
    _write_reason_of_defects(path)
    with _channel() as channel:
        try:
            path.with_suffix(".error").unlink(missing_ok=True)
            _train(path, channel, stop)
        except (JobError, SettingsError, TrainingError, ModelFolderError, OSError) as error:
            channel.fail(f"error: {error}")
            _write_reason(path, str(error))
            return _status(error)
    return 0


def _status(error: Exception) -> int:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return STATUS_DISK_FULL
    return 2 if isinstance(error, (JobError, SettingsError)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
