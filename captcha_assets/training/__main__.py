"""The training process: `python -m captcha_assets.training JOB.json`, by hand or over Dagster Pipes.

Exit status: 0 when the model folder is written, 2 for a job that cannot be used, 130 and 143 when
interrupted, 1 for anything else, with one line that says why.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from captcha_assets.training.config import JobError, SettingsError, TrainingJob


@dataclass(frozen=True)
class Channel:
    """Where lines and the result go."""

    report: Callable[[str], None]
    result: Callable[[dict[str, Any]], None]


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


@contextmanager
def _channel() -> Iterator[Channel]:
    """Yield the way to Dagster where it started this process, otherwise to the terminal."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield Channel(lambda _: None, lambda _: None)
    elif "DAGSTER_PIPES_CONTEXT" not in os.environ:
        yield Channel(_say, lambda _: None)
    else:
        from dagster_pipes import open_dagster_pipes  # noqa: PLC0415

        with open_dagster_pipes() as pipes:
            yield Channel(pipes.log.info, pipes.report_custom_message)


def _end_with(parent: int, every: float = 0.5) -> None:
    """End this process as soon as its parent is gone: nobody could stop it or take its result then."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent").start()


def _stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Stop at once: the last epoch's checkpoint is on the disk already."""
    os.write(2, b"stopped; the last checkpoint is kept, the same job goes on from it\n")
    os._exit(128 + number)


def _train(path: Path, channel: Channel) -> None:
    job = TrainingJob.load(path)
    # Threads that wait by spinning take the cores from everyone else on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from captcha_assets.training.fit import train  # noqa: PLC0415

    trained = train(job, channel.report)
    if trained is None:
        return
    channel.report(
        f"{trained.model_id}: validation accuracy {trained.metrics['validation_accuracy']:.4f}, "
        f"temperature {trained.metrics['temperature']:.3f}, written to {job.output}"
    )
    channel.result({"model_id": trained.model_id, "metrics": trained.metrics, "folder": str(job.output)})


def _one_line(error: Exception) -> bool:
    """Say whether an error explains itself to a user, so that a traceback would only hide it."""
    ours = type(error).__module__.startswith("captcha_assets.")
    return ours or isinstance(error, OSError)


def main(arguments: list[str]) -> int:
    """Train what the job file says and return the exit status."""
    _end_with(os.getppid())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    if len(arguments) != 1:
        print("usage: python -m captcha_assets.training JOB.json", file=sys.stderr)  # noqa: T201
        return 2
    with _channel() as channel:
        try:
            _train(Path(arguments[0]), channel)
        except Exception as error:
            if not _one_line(error):
                raise
            channel.report(f"error: {error}")
            print(f"error: {error}", file=sys.stderr)  # noqa: T201
            return 2 if isinstance(error, (JobError, SettingsError)) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
