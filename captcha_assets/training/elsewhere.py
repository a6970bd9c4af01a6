"""Another machine that trains, reached by the `ssh` command: what goes there and what comes back."""

import hashlib
import importlib.util
import json
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import captcha_assets
from captcha_assets.models import folder
from captcha_assets.models.folder import ModelFolderError
from captcha_assets.storage import replacing_folder
from captcha_assets.training import far
from captcha_assets.training.config import TrainingJob

#: What the machine must have; the package's own source is sent.
NEEDED = ("torch", "timm", "pytorch_lightning", "torchmetrics", "safetensors", "numpy", "pyarrow", "pydantic")

_BEGIN = (
    "import sys; sys.version_info >= (3, 11) or "
    "sys.exit('Python 3.11 or newer is needed, this is ' + sys.version.split()[0]); "
    "exec(sys.stdin.buffer.read({size}))"
)
_OPTIONS = ("BatchMode=yes", "ConnectTimeout=10", "ServerAliveInterval=15", "ServerAliveCountMax=4")


class MachineError(RuntimeError):
    """A machine that cannot be used; the message is one line that says what to do."""


@dataclass(frozen=True)
class Machine:
    """A machine that `ssh` reaches, and the folder there that is ours."""

    host: str
    folder: str
    """Absolute path; made where it is missing."""
    user: str | None = None
    port: int | None = None
    python: str = "python3"
    """The interpreter there: a path, or a name that is found there."""
    ssh_config: Path | None = None
    """Instead of the user's own ~/.ssh/config."""

    @classmethod
    def of(cls, address: str, python: str, ssh_config: Path | None) -> "Machine":
        """The machine of an address, `ssh://[user@]host[:port]/absolute/folder`."""
        parts = urlsplit(address)
        return cls(parts.hostname or "", parts.path, parts.username, parts.port, python, ssh_config)

    def start(self, told: Mapping[str, Any], errors: IO[bytes] | None) -> subprocess.Popen[bytes]:
        """Start a step of `far` there; what else it needs is written to its standard input.

        Args:
            told: what `far` is told.
            errors: where its standard error goes; None for this process's own.
        """
        program = Path(far.__file__).read_bytes()
        run = f"exec {shlex.quote(self.python)} -c {shlex.quote(_BEGIN.format(size=len(program)))}"
        try:
            # In a group of its own: Ctrl+C must not cut the line before the other side has said its last.
            process = subprocess.Popen(
                [*self._command(), run],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise MachineError("there is no ssh command on this machine: install openssh-client") from None
        _write(process, program + json.dumps({"folder": self.folder, **told}).encode() + b"\n")
        return process

    def ask(
        self,
        told: Mapping[str, Any],
        give: Callable[[IO[bytes]], object] = lambda _stdin: None,
        take: Callable[[IO[bytes]], object] = lambda stdout: stdout.read(),
    ) -> Any:
        """Run a step of `far` there to its end and return what `take` made of its standard output.

        Raises:
            MachineError: it cannot be reached, or could not do it.
        """
        with tempfile.TemporaryFile() as errors:
            process = self.start(told, errors)
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

    def _explained(self, status: int, words: str) -> MachineError:
        """What the exit status and the standard error of an `ssh` mean, and what to do."""
        said = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "no word of why")
        if status in (126, 127):
            return MachineError(f"{self.host} has no {self.python}: set CAPTCHA_COMPUTE_PYTHON to its Python")
        if status != 255:
            return MachineError(f"{self.host}: {said}")
        if "Permission denied" in said:
            return MachineError(
                f"{self.host} refuses the key ({said}): add your public key to ~/.ssh/authorized_keys there"
            )
        if "Host key verification failed" in said:
            return MachineError(
                f"{self.host} is not known yet: say yes to its key once, with `ssh {self.host}`"
            )
        return MachineError(f"{self.host} cannot be reached ({said}): see that it is on, and CAPTCHA_COMPUTE")


def _write(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(text)
        process.stdin.flush()
    except BrokenPipeError:
        process.wait()  # its exit status says why


def hang_up(process: subprocess.Popen[bytes], seconds: float) -> None:
    """End an `ssh`: what runs at its other end sees that nobody listens, and has `seconds` to end itself."""
    if process.stdin is not None and not process.stdin.closed:
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- what goes there


def _source() -> dict[str, Path]:
    """The files that train, by their place: the package, and Dagster Pipes, which is one module."""
    roots = [Path(captcha_assets.__file__).parent]
    pipes = importlib.util.find_spec("dagster_pipes")
    roots += [Path(pipes.origin).parent] if pipes and pipes.origin else []
    return {str(file.relative_to(root.parent)): file for root in roots for file in sorted(root.rglob("*.py"))}


def _hash(files: Mapping[str, Path]) -> str:
    digest = hashlib.sha256()
    for place, file in files.items():
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{place} {content}\n".encode())
    return digest.hexdigest()[:32]


def _pack(parts: Mapping[str, Mapping[str, Path]], stream: IO[bytes]) -> None:
    with tarfile.open(fileobj=stream, mode="w|") as archive:
        for part, files in parts.items():
            for place, file in files.items():
                entry = archive.gettarinfo(str(file.resolve()), f"{part}/{place}")
                with file.open("rb") as content:
                    archive.addfile(entry, content)


@dataclass(frozen=True)
class Staged:
    """A job as the machine knows it."""

    name: str
    source: str
    """The part that holds the source."""
    job: dict[str, Any]

    @property
    def told(self) -> dict[str, Any]:
        """What `far.train` is told of it."""
        return {"step": "train", "name": self.name, "source": self.source, "job": self.job}


def stage(machine: Machine, job: TrainingJob, report: Callable[[str], None]) -> Staged:
    """Bring what a job needs to the machine; what is there already is not sent again.

    Raises:
        MachineError: the machine cannot be reached, lacks something, or has no room.
    """
    source = _source()
    data = {file: _hash({file.name: file}) for file in (*job.tables, job.splits)}
    parts = {_hash(source): source, **{part: {file.name: file} for file, part in data.items()}}
    _bring(machine, parts, report)
    # A trial of a sweep never meets another training of the same settings.
    name = "-".join([job.fingerprint[:16], *filter(None, [job.provenance.get("trial")])])
    there = {file: Path(machine.folder, "parts", part, file.name) for file, part in data.items()}
    work = Path(machine.folder, "jobs", name)
    remote_job = job.model_copy(
        update={
            "tables": tuple(there[table] for table in job.tables),
            "splits": there[job.splits],
            "output": work / "model",
            "checkpoints": work / "checkpoints",
        }
    )
    return Staged(name, next(iter(parts)), remote_job.model_dump(mode="json"))


def _look(machine: Machine, parts: list[str]) -> dict[str, list[str]]:
    """Which modules and which parts the machine lacks."""
    answer = machine.ask({"step": "look", "modules": NEEDED, "parts": parts}).decode(errors="replace")
    try:
        # A login shell may greet before.
        return dict(json.loads(answer.splitlines()[-1]))
    except (IndexError, ValueError) as error:
        raise MachineError(
            f"{machine.python} on {machine.host} does not answer as Python does: set CAPTCHA_COMPUTE_PYTHON"
        ) from error


def _bring(machine: Machine, parts: Mapping[str, Mapping[str, Path]], report: Callable[[str], None]) -> None:
    lacking = _look(machine, list(parts))
    if lacking["modules"]:
        raise MachineError(
            f"{machine.python} on {machine.host} lacks {', '.join(lacking['modules'])}: install "
            "captcha-assets[training] there, or set CAPTCHA_COMPUTE_PYTHON to a Python that has it"
        )
    missing = {part: parts[part] for part in lacking["parts"]}
    if missing:
        files = [file for part in missing.values() for file in part.values()]
        size = sum(file.stat().st_size for file in files) / 1e6
        report(f"sending {len(files)} files, {size:.1f} MB, to {machine.host}")
        told = {"step": "receive", "files": len(files)}
        machine.ask(told, give=lambda stream: _pack(missing, stream))


# --- what comes back


def fetch(machine: Machine, staged: Staged, output: Path) -> str:
    """Bring the model of a finished job here, complete or not at all, and return its id.

    Raises:
        MachineError: it did not come whole.
    """
    try:
        with replacing_folder(output) as part:
            machine.ask({"step": "send", "name": staged.name}, take=lambda stream: far.unpack(stream, part))
            return folder.verify(part)
    except ModelFolderError as error:
        raise MachineError(f"the model came damaged from {machine.host}, start it again: {error}") from error


def forget(machine: Machine, staged: Staged) -> None:
    """Remove a job from the machine; the parts stay for the next one."""
    machine.ask({"step": "forget", "name": staged.name})
