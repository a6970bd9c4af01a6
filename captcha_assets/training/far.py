"""What the machine elsewhere runs of ours before the package is there: sent to it as text.

So it needs Python alone. Told on the first line of its standard input what to do, in a folder of its own:

    parts/<hash>/   files by their content: the source, the tables; each complete or absent
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

Told = dict[str, Any]

#: Begins the line that says how a training ended.
END = "captcha-assets ended "
#: Exit status of what failed with one line that says why.
FAILED = 3
#: Seconds without a sign of life after which nobody listens any more.
SILENCE = 60.0
#: Seconds that a training of before is given to end.
PATIENCE = 60.0


class FarError(RuntimeError):
    """What cannot be done on this machine; the message is one line that says what to do."""


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def unpack(stream: IO[bytes], folder: Path) -> int:
    """Unpack a tar file from `stream` into `folder` and return how many files it held."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)  # noqa: S202 - the filter is set
    return sum(one.is_file() for one in folder.rglob("*"))


def look(told: Told) -> int:
    """Say which modules and which parts this machine lacks."""
    folder = Path(told["folder"])
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    modules = [name for name in told["modules"] if importlib.util.find_spec(name) is None]
    parts = [name for name in told["parts"] if not (folder / "parts" / name).is_dir()]
    _say(json.dumps({"modules": modules, "parts": parts}))
    return 0


def receive(told: Told) -> int:
    """Unpack the parts that come as a tar file on standard input."""
    parts = Path(told["folder"]) / "parts"
    with tempfile.TemporaryDirectory(prefix=".", dir=parts) as name:
        new = Path(name)
        if unpack(sys.stdin.buffer, new) != told["files"]:
            raise FarError("the files came incomplete: start it again")
        for part in new.iterdir():
            if not (parts / part.name).is_dir():
                part.rename(parts / part.name)
    return 0


def send(told: Told) -> int:
    """Write a job's model folder as a tar file to standard output."""
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        archive.add(Path(told["folder"]) / "jobs" / told["name"] / "model", ".")
    return 0


def forget(told: Told) -> int:
    """Remove a job."""
    shutil.rmtree(Path(told["folder"]) / "jobs" / told["name"], ignore_errors=True)
    return 0


def _alone(work: Path) -> IO[str]:
    """Open the lock of a job, which falls with this process; one of before is waited for."""
    lock = (work / "lock").open("w")
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                raise FarError(f"the same training runs there already, in {work}: wait for it") from None
            time.sleep(0.2)
        else:
            return lock


def _listen(gone: threading.Event) -> None:
    """Set `gone` when whoever started this hangs up, or gives no sign of life."""
    while select.select([0], [], [], SILENCE)[0] and os.read(0, 1024):
        pass
    gone.set()


def _wait(child: subprocess.Popen[bytes]) -> int:
    """Wait for a training, and stop it as soon as nobody listens."""
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


def train(told: Told) -> int:
    """Run a training as long as somebody listens; the last line says how it ended."""
    folder = Path(told["folder"])
    work, source = folder / "jobs" / told["name"], folder / "parts" / told["source"]
    work.mkdir(parents=True, exist_ok=True)
    with _alone(work):
        (work / "job.json").write_text(json.dumps(told["job"]))
        command = [sys.executable, "-m", "captcha_assets.training", str(work / "job.json")]
        path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, **told["environment"], "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        status = _wait(subprocess.Popen(command, cwd=work, env=environment, stdin=subprocess.DEVNULL))
    _say(END + json.dumps({"status": status}))
    return 0


def main() -> int:
    """Do what the first line of standard input says and return the exit status."""
    told = json.loads(sys.stdin.buffer.readline())
    step = {"look": look, "receive": receive, "send": send, "forget": forget, "train": train}[told["step"]]
    try:
        return step(told)
    except (OSError, tarfile.TarError, FarError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        words = (
            f"the disk there is full, in {told['folder']}: free some and start it again" if full else error
        )
        print(words, file=sys.stderr)  # noqa: T201
        if told["step"] == "train":
            _say(END + json.dumps({"status": FAILED, "machine": str(words)}))
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
