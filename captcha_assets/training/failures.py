"""The error of a failed training, from the exit status of its process and its own message."""

import signal

#: Exit status when the disk is full: then the reason may not fit on it.
STATUS_DISK_FULL = 3
#: Exit status of a job whose node does not reach the store of its files.
STATUS_NO_STORE = 4
#: Exit status of a Ray job that has stopped because the run that submitted it was gone.
STATUS_RUN_GONE = 5


class TrainingFailedError(RuntimeError):
    """A training that failed; the message says why."""


class TrainingStoppedError(RuntimeError):
    """A training whose process was ended from outside; the same training, started again, continues."""


class ClusterError(RuntimeError):
    """Kubernetes or Vertex AI cannot be used, or lost a job; the message is one line that says what to do."""


class RayClusterError(RuntimeError):
    """A Ray cluster that cannot be used, or lost a job; the message is one line that says what to do."""


def process_error(status: int, where: str, message: str | None) -> Exception:
    """Return what to raise for a training process that ended with an error.

    Args:
        status: its exit status; negative for the signal that killed it.
        where: " on the Ray cluster", or empty for this machine.
        message: its own message, if there is one.
    """
    number = -status if status < 0 else status - 128
    if not message and number in set(signal.Signals):
        name = signal.Signals(number).name
        hint = ": perhaps the memory did not suffice, lower batch_size" if number == signal.SIGKILL else ""
        return TrainingStoppedError(
            f"the training process{where} was ended from outside by {name}{hint}; start the training again "
            "and it continues from its last checkpoint, if it finished an epoch"
        )
    if not message and status == STATUS_RUN_GONE:
        return TrainingStoppedError(f"the training process{where} heard nothing of this run, and stopped")
    if not message and status == STATUS_DISK_FULL:
        message = "no space left on the disk or in the quota: free some and run it again"
    return TrainingFailedError(
        message
        or f"the training process{where} ended with status {status} without a message: "
        "its output stands in the run's log"
    )
