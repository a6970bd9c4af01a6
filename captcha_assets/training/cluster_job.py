"""The entry point of a job of a cluster: `python -m captcha_assets.training.cluster_job FOLDER`.

It fetches the input of a folder of `staging`, runs `python -m captcha_assets.training` on this node, uploads
each checkpoint when its epoch has finished, and the model folder at the end. The exit status is that of the
training, 143 where the job was stopped, 4 where this node does not reach the folder, 5 where the run that
submitted the job was gone.
"""

import argparse
import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from captcha_assets.atomic_files import (
    AnyPath,
    fetched,
    own_folder,
    path_of,
    remove,
    replacing,
    replacing_folder,
)
from captcha_assets.training.config import TrainingJob
from captcha_assets.training.failures import STATUS_DISK_FULL, STATUS_NO_STORE, STATUS_RUN_GONE
from captcha_assets.training.staging import (
    CHECKPOINTS,
    ERROR,
    INPUT,
    JOB,
    MESSAGES,
    MODEL,
    Listener,
    absolute,
    copy_files,
)

#: Seconds between two looks at the checkpoint.
_INTERVAL = 0.5


def _complain(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201


@dataclass
class _Checkpoints:
    """The checkpoints of a training: on the node's own disk, and in the store."""

    local: Path
    stored: AnyPath
    _uploaded: tuple[int, int] | None = field(default=None, init=False)

    def fetch(self) -> None:
        """Copy the checkpoints of an earlier process of the same training to this node."""
        if self.stored.exists():
            with fetched(self.stored) as there:
                copy_files(there, self.local)

    def upload(self) -> None:
        """Upload the last checkpoint, if there is a new one; a store that fails costs one line."""
        try:
            found = (self.local / "last.ckpt").stat()
            version = (found.st_ino, found.st_mtime_ns)
            if version == self._uploaded:
                return
            self._uploaded = version
            for name in ("job", "last.ckpt"):
                with replacing(self.stored / name) as part:
                    shutil.copyfile(self.local / name, part)
        except FileNotFoundError:  # there is none yet, or the training has just ended and removed it
            return
        except OSError as error:
            _complain(f"the last checkpoint could not be uploaded: {error}")


@dataclass
class _Messages:
    """The messages of a training: a file of this node, or none, and its copy in the store."""

    local: Path | None
    stored: AnyPath
    _uploaded: int = field(default=0, init=False)

    def upload(self) -> None:
        """Upload the messages, if there are new ones; a store that fails is tried again."""
        try:
            if self.local is None or self.local.stat().st_size == self._uploaded:
                return
            content = self.local.read_bytes()
            with replacing(self.stored) as part:
                part.write_bytes(content)
            self._uploaded = len(content)
        except FileNotFoundError:  # the training has written none yet
            return
        except OSError as error:
            _complain(f"the messages could not be uploaded: {error}")


@contextmanager
def _process(job: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a training; where the block is left early, stop it."""
    command = [sys.executable, "-m", "captcha_assets.training", str(job)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.terminate()


def _fetch_input(stored: AnyPath, local: Path) -> None:
    if isinstance(stored, Path):
        local.symlink_to(stored.absolute())
    else:
        stored.fs.get(stored.path, str(local), recursive=True)


def _train(target: AnyPath, place: Path, messages: _Messages, run: Listener | None) -> int:
    """Train the job of `target` in the local folder `place`, and return the exit status of the training."""
    _fetch_input(target / INPUT, place / INPUT)
    staged = TrainingJob.model_validate_json((target / JOB).read_text())
    absolute(staged, place).save(place / JOB)
    checkpoints = _Checkpoints(place / CHECKPOINTS, target / CHECKPOINTS)
    checkpoints.fetch()
    try:
        with _process(place / JOB) as process:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_INTERVAL)
                checkpoints.upload()
                messages.upload()
                if run and run.is_gone():
                    _complain("stopped: the run that has submitted this job is gone; the same one resumes it")
                    return STATUS_RUN_GONE
    finally:
        checkpoints.upload()
        messages.upload()
    return process.returncode


def _store(target: AnyPath, place: Path, status: int) -> None:
    """Upload what a training left behind: its model, or why there is none."""
    if (place / ERROR).exists():
        # Paths of this node's disk say nothing once the job has ended.
        text = (place / ERROR).read_text().replace(str(place), str(target))
        with replacing(target / ERROR) as part:
            part.write_text(text)
    if status:
        return
    if (place / MODEL).is_dir():
        with replacing_folder(target / MODEL) as part:
            copy_files(place / MODEL, part)
    remove(target / CHECKPOINTS)


def _run(target: AnyPath, place: Path, messages: Path | None, heartbeat: float | None) -> int:
    if not (target / JOB).exists():
        _complain(f"error: {target} is not there on this node")
        return STATUS_NO_STORE
    run = Listener(target, heartbeat) if heartbeat else None
    status = _train(target, place, _Messages(messages, target / MESSAGES), run)
    _store(target, place, status)
    return status if status >= 0 else 128 - status


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m captcha_assets.training.cluster_job")
    parser.add_argument("folder", type=path_of, help="folder of `staging`, in a store that this node reaches")
    parser.add_argument(
        "--heartbeat", type=float, metavar="SECONDS", help="stop without a heartbeat of the run for so long"
    )
    parser.add_argument(
        "--messages",
        type=Path,
        metavar="FILE",
        help="file of this node that the training writes its Pipes messages to; it is uploaded to the folder",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the job and return its exit status."""
    options = _options(arguments)
    # A job is stopped by SIGTERM and later (Ray: 3 s) by SIGKILL: the last checkpoint is uploaded before.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    target = options.folder
    try:
        with own_folder(Path(tempfile.gettempdir(), f"captcha-assets-{os.getuid()}"), "job-") as own:
            # A writer locks the folder that it writes to, and this process holds the lock of its own.
            place = own / "work"
            place.mkdir()
            return _run(target, place, options.messages, options.heartbeat)
    except OSError as error:
        _complain(f"error: {error}")
        with suppress(OSError), replacing(target / ERROR) as part:
            part.write_text(f"{error}\n")
        return STATUS_DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
