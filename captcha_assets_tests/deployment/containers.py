"""Container images, built and started for real by buildah, where no engine runs.

Not every machine can fetch a base image, so one stands in for all: Debian with Python and nginx, made by
debootstrap from the mirror that apt uses, once on each machine, and kept in the user's cache.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
#: What the Dockerfiles start from; the stand-in is all of these.
BASES = ("python:3.11.14-slim-bookworm", "nginx:1.28.0-bookworm")
#: Names by which containers reach each other.
SERVICES = ("backend", "code-location")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captcha-assets" / "images"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PACKAGES = ("python3", "python3-pip", "python3-venv", "ca-certificates", "curl", "nginx-light")


def _done(*command: str, **environment: str) -> str:
    """Run a command that must succeed, and return its output."""
    ended = subprocess.run(
        command, cwd=REPOSITORY, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, f"{command}: {(ended.stdout + ended.stderr)[-2000:]}"
    return ended.stdout.strip()


def _mirror() -> str:
    """Return the address of the Debian mirror that apt uses."""
    listed = _done("apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(CODENAME)")
    return next((line.split()[0] for line in listed.splitlines() if line.endswith(" bookworm")), "")


def _base_folder() -> Path:
    """Return the root folder of the stand-in for the base images; it is made where there is none."""
    root = _CACHE / "base"
    if root.is_dir():
        return root
    _CACHE.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix="base-", dir=_CACHE))
    part.chmod(0o755)
    try:
        _done(
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(_PACKAGES)}",
            "bookworm",
            str(part),
            _mirror(),
        )
        # As the official image has it: `python`, and a pip that installs for everyone.
        (part / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        for marker in part.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        if Path(_CERTIFICATES).is_file():
            shutil.copyfile(_CERTIFICATES, part / _CERTIFICATES.lstrip("/"))
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def why_not() -> str | None:
    """Return why no image can be built here; None where one can."""
    if os.geteuid() != 0:
        return "images are built as root only"
    if shutil.which("buildah") is None or shutil.which("debootstrap") is None:
        return "buildah and debootstrap are not installed: apt-get install buildah debootstrap"
    return None if _mirror() else "apt has no mirror of Debian bookworm, of which the base image is made"


@dataclass(frozen=True)
class Builder:
    """Builds images into a storage of its own."""

    storage: Path

    def buildah(self, *arguments: str) -> str:
        """Run buildah, which must succeed, and return its output."""
        return _done(*self.command(*arguments), **self.environment)

    def command(self, *arguments: str) -> list[str]:
        """Return a command of buildah on this storage."""
        return ["buildah", "--root", f"{self.storage}/root", "--runroot", f"{self.storage}/run", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Variables of buildah: no runtime, and its files on a disk instead of in memory."""
        return {"BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.storage)}

    def make_bases(self) -> None:
        """Make the base images."""
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(_base_folder()), "/")
        variables = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SSL_CERT_FILE": _CERTIFICATES,
            "PIP_CERT": _CERTIFICATES,
        }
        self.buildah(
            "config", *[word for item in variables.items() for word in ("--env", "=".join(item))], container
        )
        self.buildah("commit", "--quiet", "--rm", container, BASES[0])
        for other in BASES[1:]:
            self.buildah("tag", BASES[0], other)

    def build(self, name: str) -> str:
        """Build an image from its Dockerfile, with the cache of uv of this machine; return its name."""
        cached = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
        cached.mkdir(parents=True, exist_ok=True)
        image = f"captcha-assets-{name}"
        self.buildah(
            "bud", "--quiet", "--format", "docker", "--pull-never", "--volume", f"{cached}:/var/cache/uv",
            "--file", f"dockerfiles/{name}.Dockerfile", "--tag", image, ".",
        )  # fmt: skip
        return image

    def configuration(self, image: str) -> dict[str, object]:
        """Return the configuration of an image, as an engine reads it."""
        return dict(json.loads(self.buildah("inspect", "--type", "image", image))["Docker"]["config"])


@dataclass
class Container:
    """A container of an image, in the network of a pod."""

    builder: Builder
    network: Sequence[str]
    name: str
    configuration: dict[str, object]
    mounts: list[str]
    log: Path
    _processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def _command(self, words: Sequence[str]) -> list[str]:
        return [*self.network, *self.builder.command("run", *self.mounts, self.name, "--", *words)]

    def mount(self, file: Path, target: str) -> None:
        """Show a file of this machine to what is started from now on."""
        self.mounts += ["--volume", f"{file}:{target}:ro"]

    def run(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container to its end."""
        return subprocess.run(
            self._command(words),
            env=os.environ | self.builder.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self, *words: str) -> None:
        """Start the command of the image, or another one."""
        own = [*list(self.configuration.get("Entrypoint") or []), *list(self.configuration.get("Cmd") or [])]
        with self.log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    self._command(words or own),
                    env=os.environ | self.builder.environment,
                    stdout=log,
                    stderr=log,
                )
            )

    def is_healthy(self, check: Sequence[str] = ()) -> bool:
        """Run the health check of the image, or another one, in the container, and say how it ended."""
        check = check or self.configuration["Healthcheck"]["Test"]  # type: ignore[index]
        assert check[0] == "CMD"
        return self.run(*check[1:]).returncode == 0

    def becomes_healthy(self, check: Sequence[str] = (), seconds: float = 300) -> bool:
        """Wait until the container is healthy; say whether it is, or its command has ended."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self._processes[-1].poll() is None:
            if self.is_healthy(check):
                return True
            time.sleep(2)
        return False

    def stop(self) -> None:
        """End everything that was started."""
        for process in self._processes:
            try:
                started = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                started = []
            for one in started:
                if one.is_running():
                    one.kill()
            process.wait()


@dataclass(frozen=True)
class Pod:
    """Containers that share a network of their own, in which all names of services are this machine's."""

    builder: Builder
    network: Sequence[str]
    logs: Path

    @contextmanager
    def container(self, image: str, home: Path | None = None) -> Iterator[Container]:
        """Yield a container of an image; it is removed with all its processes."""
        hosts = [word for name in SERVICES for word in ("--add-host", f"{name}:127.0.0.1")]
        name = self.builder.buildah("from", "--pull-never", *hosts, image)
        mounts = ["--volume", f"{home}:/var/lib/captcha-assets"] if home else []
        found = Container(
            self.builder,
            self.network,
            name,
            self.builder.configuration(image),
            mounts,
            self.logs / f"{name}.log",
        )
        try:
            yield found
        finally:
            found.stop()
            self.builder.buildah("rm", name)

    def ask(self, address: str, *options: str) -> str:
        """Ask an address in the network of the pod; return the whole answer."""
        return _done(*self.network, "curl", "--silent", "--show-error", "--include", *options, address)


@contextmanager
def pod(builder: Builder, logs: Path) -> Iterator[Pod]:
    """Yield a pod without containers."""
    script = "ip link set lo up && echo up && exec sleep infinity"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == b"up\n"
        yield Pod(builder, ["nsenter", f"--net=/proc/{holder.pid}/ns/net"], logs)
        holder.kill()


@contextmanager
def builder() -> Iterator[Builder]:
    """Yield a builder that has the base images; what it built is removed in the end."""
    if reason := why_not():
        pytest.skip(reason)
    _CACHE.mkdir(parents=True, exist_ok=True)
    storage = Path(tempfile.mkdtemp(prefix="storage-", dir=_CACHE))
    found = Builder(storage)
    try:
        found.make_bases()
        yield found
    finally:
        found.buildah("rm", "--all")
        found.buildah("rmi", "--all", "--force")
        shutil.rmtree(storage, ignore_errors=True)
