"""A remote host that trains, reached by the `ssh` command: files are sent, the model folder is fetched."""

import hashlib
import importlib.util
import json
import os
import shlex
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import captcha_assets
from captcha_assets.atomic_files import replacing_folder
from captcha_assets.models import folder
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.training import remote_host_program
from captcha_assets.training.config import TrainingJob
from captcha_assets.training.failures import process_error

#: Seconds between the heartbeats that the remote host waits for.
_HEARTBEAT = 10.0

#: The packages that the remote host must have; the source of this package is sent.
NEEDED = ("torch", "timm", "pytorch_lightning", "torchmetrics", "safetensors", "numpy", "pyarrow", "pydantic")

_BEGIN = (
    "import sys; sys.version_info >= (3, 11) or "
    "sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0]); "
    "exec(sys.stdin.buffer.read({size}))"
)
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=4")


class RemoteHostError(RuntimeError):
    """A remote host that cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class RemoteHost:
    """A host that `ssh` reaches, and the folder there that this package uses."""

    host: str
    folder: str
    """Absolute path; created where it is missing."""
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    """The Python interpreter of the remote host: a path, or a name on its search path."""
    ssh_config: Path | None = None
    """Instead of the user's own ~/.ssh/config."""

    @classmethod
    def of(cls, address: str, python: str, ssh_config: Path | None) -> "RemoteHost":
        """Return the host of an address, `ssh://[user@]host[:port]/absolute/folder`."""
        parts = urlsplit(address)
        return cls(parts.hostname or "", parts.path, parts.username, parts.port, python, ssh_config)

    def start(self, request: Mapping[str, Any], errors: IO[bytes] | None) -> subprocess.Popen[bytes]:
        """Start the program of `remote_host_program` there, with a request on its standard input.

        Args:
            request: the request.
            errors: where its standard error goes; None for this process's own.
        """
        program = Path(remote_host_program.__file__).read_bytes()
        command = f"exec {shlex.quote(self.python)} -c {shlex.quote(_BEGIN.format(size=len(program)))}"
        try:
            # In a process group of its own: Ctrl+C must not close the connection before the last message.
            process = subprocess.Popen(
                [*self._command(), command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise RemoteHostError("there is no ssh command on this machine: install openssh-client") from None
        _write(process, program + json.dumps({"folder": self.folder, **request}).encode() + b"\n")
        return process

    def run(
        self,
        request: Mapping[str, Any],
        give: Callable[[IO[bytes]], object] = lambda _stdin: None,
        take: Callable[[IO[bytes]], object] = lambda stdout: stdout.read(),
    ) -> Any:
        """Run a request there to its end and return `take` of its standard output.

        Raises:
            RemoteHostError: the host cannot be reached, or the request failed.
        """
        with tempfile.TemporaryFile() as errors:
            process = self.start(request, errors)
            assert process.stdin is not None
            assert process.stdout is not None
            broken = None
            try:
                try:
                    give(process.stdin)
                    process.stdin.close()
                    answer = take(process.stdout)
                except (BrokenPipeError, tarfile.ReadError) as error:
                    broken = error
                    hang_up(process, 20)
                status = process.wait()
            finally:
                hang_up(process, 0)
            if status or broken:
                errors.seek(0)
                raise self._explained(status, errors.read().decode(errors="replace"))
            return answer

    def _command(self) -> list[str]:
        given = {"-F": self.ssh_config, "-p": self.port, "-l": self.user}
        options = [text for flag, value in given.items() if value for text in (flag, str(value))]
        return ["ssh", "-T", *options, *(text for one in _OPTIONS for text in ("-o", one)), "--", self.host]

    def _explained(self, status: int, errors: str) -> RemoteHostError:
        """Return what the exit status and the standard error of `ssh` mean, and what to do."""
        said = next(
            (line.strip() for line in reversed(errors.splitlines()) if line.strip()), "no reason given"
        )
        if status in (126, 127):
            return RemoteHostError(
                f"{self.host} has no {self.python}: set CAPTCHA_COMPUTE_PYTHON to its Python"
            )
        if status != 255:
            return RemoteHostError(f"{self.host}: {said}")
        if "Permission denied" in said:
            return RemoteHostError(
                f"{self.host} rejects the key ({said}): add your public key to ~/.ssh/authorized_keys there"
            )
        if "Host key verification failed" in said:
            return RemoteHostError(
                f"{self.host} is not in known_hosts: accept its key once, with `ssh {self.host}`"
            )
        return RemoteHostError(
            f"{self.host} cannot be reached ({said}): see that it is on, and CAPTCHA_COMPUTE"
        )


def _write(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text)
        process.stdin.flush()
    except BrokenPipeError:
        process.wait()  # its exit status says why


def hang_up(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Close an `ssh` connection: the remote program notices it and has `seconds` to end itself."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def heartbeat(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Send heartbeats while the block runs, then close the connection."""
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
        hang_up(process, 25)


# --- messages of a training


def end_in(line: str) -> dict[str, Any] | None:
    """Return how a training ended, where a line says so."""
    mark = remote_host_program.END
    return dict(json.loads(line.removeprefix(mark))) if line.startswith(mark) else None


def error_in(line: str) -> str | None:
    """Return the text of an error, where a line is a message that reports one."""
    try:
        message = json.loads(line)
        parameters = message["params"]
        if message["method"] == "closed":
            return f"{parameters['exception']['name']}: {parameters['exception']['message']}".strip()
        return str(parameters["message"]).removeprefix("error: ") if parameters["level"] == "ERROR" else None
    except (ValueError, TypeError, KeyError):
        return None


def check_end(host: RemoteHost, ended: dict[str, Any] | None, error: str | None) -> None:
    """Check that a training ended well.

    Args:
        host: where it ran.
        ended: how it ended; None where the connection broke.
        error: the last error that it reported.

    Raises:
        RemoteHostError: the host failed, or the connection to it.
        TrainingFailedError: with the message of the training process.
        TrainingStoppedError: the process was ended from outside.
    """
    if ended is None:
        raise RemoteHostError(
            f"the connection to {host.host} broke: the training there ends itself; start it again and it "
            "resumes from its last checkpoint, if it finished an epoch"
        )
    if ended.get("machine"):
        raise RemoteHostError(f"{host.host}: {ended['machine']}")
    if ended["status"]:
        raise process_error(int(ended["status"]), f" on {host.host}", error)


# --- sending


def _source() -> dict[str, Path]:
    """Return the source files by relative path: the package, and Dagster Pipes, which is one module."""
    roots = [Path(captcha_assets.__file__).parent]
    pipes = importlib.util.find_spec("dagster_pipes")
    roots += [Path(pipes.origin).parent] if pipes and pipes.origin else []
    return {str(file.relative_to(root.parent)): file for root in roots for file in sorted(root.rglob("*.py"))}


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for path, file in files.items():
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{path} {content}\n".encode())
    return digest.hexdigest()[:32]


def _pack(parts: Mapping[str, Mapping[str, Path]], stream: IO[bytes]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for part, files in parts.items():
            for path, file in files.items():
                entry = archive.gettarinfo(str(file.resolve()), f"{part}/{path}")
                with file.open("rb") as content:
                    archive.addfile(entry, content)


@dataclass(frozen=True)
class Staged:
    """A job on the remote host."""

    name: str
    source: str
    """Name of the part that holds the source."""
    job: dict[str, Any]

    @property
    def request(self) -> dict[str, Any]:
        """The request that trains it."""
        return {"step": "train", "name": self.name, "source": self.source, "job": self.job}


def stage(host: RemoteHost, job: TrainingJob, report: Callable[[str], None]) -> Staged:
    """Send the files of a job to the remote host, but those that it has.

    Raises:
        RemoteHostError: the host cannot be reached, lacks a package, or its disk is full.
    """
    source = _source()
    data = {file: _hash({file.name: file}) for file in (*job.tables, job.splits)}
    parts = {_hash(source): source, **{part: {file.name: file} for file, part in data.items()}}
    _send_missing(host, parts, report)
    # A trial of a sweep has a folder of its own beside another training of the same settings.
    name = "-".join([job.fingerprint[:16], *filter(None, [job.provenance.get("trial")])])
    there = {file: Path(host.folder, "parts", part, file.name) for file, part in data.items()}
    work = Path(host.folder, "jobs", name)
    remote_job = job.model_copy(
        update={
            "tables": tuple(there[table] for table in job.tables),
            "splits": there[job.splits],
            "output": work / "model",
            "checkpoints": work / "checkpoints",
        }
    )
    return Staged(name, next(iter(parts)), remote_job.model_dump(mode="json"))


def _look(host: RemoteHost, parts: list[str]) -> dict[str, list[str]]:
    """Return which modules and which parts the remote host lacks."""
    answer = host.run({"step": "look", "modules": NEEDED, "parts": parts}).decode(errors="replace")
    try:
        # A login shell may greet before.
        return dict(json.loads(answer.splitlines()[-1]))
    except (IndexError, ValueError) as error:
        raise RemoteHostError(
            f"{host.python} on {host.host} does not answer as Python does: set CAPTCHA_COMPUTE_PYTHON"
        ) from error


def _send_missing(
    host: RemoteHost, parts: Mapping[str, Mapping[str, Path]], report: Callable[[str], None]
) -> None:
    lacking = _look(host, list(parts))
    if lacking["modules"]:
        raise RemoteHostError(
            f"{host.python} on {host.host} lacks {', '.join(lacking['modules'])}: install "
            "captcha-assets[training] there, or set CAPTCHA_COMPUTE_PYTHON to a Python that has it"
        )
    missing = {part: parts[part] for part in lacking["parts"]}
    if missing:
        files = [file for part in missing.values() for file in part.values()]
        size = sum(file.stat().st_size for file in files) / 1e6
        report(f"sending {len(files)} files, {size:.1f} MB, to {host.host}")
        request = {"step": "receive", "files": len(files)}
        host.run(request, give=lambda stream: _pack(missing, stream))


# --- fetching


def fetch(host: RemoteHost, staged: Staged, output: Path) -> str:
    """Fetch the model folder of a finished job, complete or not at all, and return the model id.

    Raises:
        RemoteHostError: it arrived incomplete or damaged.
    """
    try:
        with replacing_folder(output) as part:
            host.run(
                {"step": "send", "name": staged.name},
                take=lambda stream: remote_host_program.unpack(stream, part),
            )
            return folder.verify(part)
    except ModelFolderError as error:
        raise RemoteHostError(f"the model came damaged from {host.host}, start it again: {error}") from error


def remove(host: RemoteHost, staged: Staged) -> None:
    """Remove a job from the remote host; the parts stay for the next one."""
    host.run({"step": "remove", "name": staged.name})
