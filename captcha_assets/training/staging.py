"""A training job in a store that this machine and a cluster reach: a folder or an object store.

<store>/<name>/job.json      the job; its paths are relative to the folder of the job
<store>/<name>/input/        the splits and the image tables
<store>/<name>/checkpoints/  the last checkpoint, uploaded whenever an epoch has finished
<store>/<name>/heartbeat     written again and again while the run that submitted the job lives
<store>/<name>/job.error     why the training failed, in one line
<store>/<name>/messages      what the training reports, where nothing else carries it
<store>/<name>/model/        the model folder, complete or absent
"""

import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from captcha_assets.atomic_files import AnyPath, fetched, remove, replacing, replacing_folder
from captcha_assets.models import folder
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.training.config import TrainingJob

JOB, ERROR, MESSAGES = "job.json", "job.error", "messages"
INPUT, CHECKPOINTS, MODEL = "input", "checkpoints", "model"
HEARTBEAT = "heartbeat"

#: How many heartbeats there are within the time after which a run without one counts as gone.
_BEATS = 8


class StagingError(RuntimeError):
    """A store that does not hold what it should; the message is one line that says what to do."""


def staged_folder(store: AnyPath, job: TrainingJob) -> AnyPath:
    """Return the folder of a job in a store: the same training has the same one, a trial one of its own."""
    trial = job.provenance.get("trial")
    return store / "-".join([job.fingerprint[:16], *([trial] if trial else [])])


def stage(job: TrainingJob, target: AnyPath) -> None:
    """Upload the job and the files that it reads; checkpoints of an earlier process stay."""
    for left in (ERROR, MESSAGES):
        remove(target / left)
    inputs = {file: f"{INPUT}/{number}/{file.name}" for number, file in enumerate((job.splits, *job.tables))}
    for file, path in inputs.items():
        with replacing(target / path) as part:
            shutil.copyfile(file, part)
    relative = job.model_copy(
        update={
            "splits": Path(inputs[job.splits]),
            "tables": tuple(Path(inputs[table]) for table in job.tables),
            "output": Path(MODEL),
            "checkpoints": Path(CHECKPOINTS),
        }
    )
    with replacing(target / JOB) as part:
        relative.save(part)


def absolute(job: TrainingJob, place: Path) -> TrainingJob:
    """Return a staged job whose relative paths are below a local folder."""
    return job.model_copy(
        update={
            "splits": place / job.splits,
            "tables": tuple(place / table for table in job.tables),
            "output": place / job.output,
            "checkpoints": place / job.checkpoints,
        }
    )


def copy_files(source: Path, target: Path) -> None:
    """Copy the files of a local folder into another one.

    Raises:
        OSError: the first error, with its number: `shutil.copytree` raises one without.
    """
    for file in sorted(source.rglob("*")):
        if file.is_file():
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


@contextmanager
def heartbeat(target: AnyPath, patience: float) -> Iterator[None]:
    """Write heartbeats while the block runs, several within `patience` seconds; see `Listener`."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(patience / _BEATS):
            # A store that fails is no reason to stop the run: the next heartbeat may reach it.
            with suppress(OSError):
                _beat(target)

    _beat(target)
    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        remove(target / HEARTBEAT)


def _beat(target: AnyPath) -> None:
    with replacing(target / HEARTBEAT) as part:
        part.write_text(uuid.uuid4().hex)


class Listener:
    """Says whether the run that has submitted a job still writes heartbeats."""

    def __init__(self, target: AnyPath, patience: float) -> None:
        """Listen in a folder; a run without a new heartbeat for `patience` seconds counts as gone."""
        self._file, self._patience = target / HEARTBEAT, patience
        self._last: str | None = None
        self._heard = self._looked = time.monotonic()

    def is_gone(self) -> bool:
        """Look for a new heartbeat, if it is time to, and say whether the run is gone."""
        now = time.monotonic()
        if now - self._looked < self._patience / _BEATS:
            return False
        self._looked = now
        try:
            beat = self._file.read_text() if self._file.exists() else None
        except OSError:  # the store fails: that says nothing about the run
            self._heard = now
            return False
        if beat is not None and beat != self._last:
            self._last, self._heard = beat, now
        return now - self._heard > self._patience


def reason(target: AnyPath) -> str | None:
    """Return why the training of a staged job failed; None where it gave no reason."""
    file = target / ERROR
    return file.read_text().strip() if file.exists() else None


def has_model(target: AnyPath) -> bool:
    """Say whether the training of a staged job has uploaded its model."""
    return bool((target / MODEL / "manifest.json").exists())


def fetch_model(target: AnyPath, output: Path) -> str:
    """Fetch the model of a staged job into a local folder, complete or not at all; return the model id.

    Raises:
        StagingError: it is damaged.
    """
    try:
        with fetched(target / MODEL) as there, replacing_folder(output) as part:
            copy_files(there, part)
            return folder.verify(part)
    except ModelFolderError as error:
        remove(target / MODEL)
        raise StagingError(f"the model came damaged from {target}, train again: {error}") from error


def remove_input(target: AnyPath) -> None:
    """Remove what `stage` uploaded; the checkpoints stay, so that the same training resumes."""
    for name in (JOB, INPUT):
        remove(target / name)
