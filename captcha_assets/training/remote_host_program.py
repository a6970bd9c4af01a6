"""The program that a remote host runs: sent to it as text, so it needs nothing but Python.

The first line of its standard input is the request, as JSON. It works in one folder of the remote host:

    parts/<hash>/   files by their content hash: the source, the tables; each complete or absent
    jobs/<name>/    one training: its job, its checkpoints, its model
"""

import errno
import fcntl
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any

Request = dict[str, Any]

#: Begins the line that says how a training ended.
END = "captcha-assets ended "
#: Exit status of what failed with one line that says why.
FAILED = 3
#: Seconds without a heartbeat after which the connection counts as broken.
SILENCE = 60.0
#: Seconds to wait for an earlier process of the same training to end.
PATIENCE = 60.0


class RemoteTrainingError(RuntimeError):
    """A request that this host cannot fulfil; the message is one line that says what to do."""


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def unpack(stream: IO[bytes], folder: Path) -> int:
    """Unpack a tar file from `stream` into `folder` and return how many files it held."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)  # noqa: S202 - the filter is set
    return sum(one.is_file() for one in folder.rglob("*"))


def look(request: Request) -> int:
    """Print which modules and which parts this host lacks."""
    folder = Path(request["folder"])
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    modules = [name for name in request["modules"] if importlib.util.find_spec(name) is None]
    parts = [name for name in request["parts"] if not (folder / "parts" / name).is_dir()]
    _say(json.dumps({"modules": modules, "parts": parts}))
    return 0


def receive(request: Request) -> int:
    """Unpack the parts that come as a tar file on standard input."""
    parts = Path(request["folder"]) / "parts"
    with tempfile.TemporaryDirectory(prefix=".", dir=parts) as name:
        new = Path(name)
        if unpack(sys.stdin.buffer, new) != request["files"]:
            raise RemoteTrainingError("the files came incomplete: start it again")
        for part in new.iterdir():
            if not (parts / part.name).is_dir():
                part.rename(parts / part.name)
    return 0


def send(request: Request) -> int:
    """Write a job's model folder as a tar file to standard output."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        archive.add(Path(request["folder"]) / "jobs" / request["name"] / "model", ".")
    return 0


def remove(request: Request) -> int:
    """Remove a job."""
    shutil.rmtree(Path(request["folder"]) / "jobs" / request["name"], ignore_errors=True)
    return 0


def _alone(work: Path) -> IO[str]:
    """Return the lock of a job, which ends with this process; wait for an earlier process to release it."""
    lock = (work / "lock").open("w")
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise RemoteTrainingError(
                    f"the same training runs there already, in {work}: wait for it"
                ) from None
            time.sleep(0.2)
        else:
            return lock


def _listen(gone: threading.Event) -> None:
    """Set `gone` when the connection is closed, or no heartbeat comes."""
    while select.select([0], [], [], SILENCE)[0] and os.read(0, 1024):
        pass
    gone.set()


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a training, and stop it when the connection breaks."""
    gone = threading.Event()
    threading.Thread(target=_listen, args=(gone,), daemon=True).start()
    while child.poll() is None and not gone.wait(0.2):
        pass
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
    return child.wait()


def train(request: Request) -> int:
    """Run a training while the connection holds; the last line says how it ended."""
    folder = Path(request["folder"])
    work, source = folder / "jobs" / request["name"], folder / "parts" / request["source"]
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        (work / "job.json").write_text(json.dumps(request["job"]))
        command = [sys.executable, "-m", "captcha_assets.training", str(work / "job.json")]
        path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **request["environment"], "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        status = _wait(subprocess.Popen(command, cwd=work, env=environment, stdin=subprocess.DEVNULL))
    _say(END + json.dumps({"status": status}))
    return 0


def main() -> int:
    """Fulfil the request on the first line of standard input and return the exit status."""
    request = json.loads(sys.stdin.buffer.readline())
    step = {"look": look, "receive": receive, "send": send, "remove": remove, "train": train}[request["step"]]
    try:
        return step(request)
    except (OSError, tarfile.TarError, RemoteTrainingError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = (
            f"the disk there is full, in {request['folder']}: free some and start it again" if full else error
        )
        print(words, file=sys.stderr)  # noqa: T201
        if request["step"] == "train":
            _say(END + json.dumps({"status": FAILED, "machine": str(words)}))
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
