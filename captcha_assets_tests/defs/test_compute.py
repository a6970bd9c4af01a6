"""A training on a remote host, by a real `ssh` to this machine: the same model and messages, no leftovers."""

import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from captcha_assets.defs.compute import (
    Compute,
    LocalCompute,
    RemoteCompute,
    compute_of,
)
from captcha_assets.models import folder
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingJob, TrainingSettings
from captcha_assets.training.failures import TrainingFailedError
from captcha_assets.training.remote_host import RemoteHostError
from captcha_assets_tests.defs.test_training_run import wait_until
from captcha_assets_tests.training.examples import job_on, write_batch

#: Whole pipelines, and processes of their own: CI runs them, `make test-all` here.
pytestmark = pytest.mark.slow

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
TINY = TrainingSettings(epochs=30, batch_size=32, channels=(4, 8, 8, 8), accelerator="cpu")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _key(path: Path) -> Path:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    return path


def _configure(place: Path, port: int) -> None:
    """Keys and configurations of both sides, all of them in `place`."""
    key, host_key = _key(place / "key"), _key(place / "host_key")
    shutil.copy(key.with_suffix(".pub"), place / "authorized_keys")
    kind, public, *_ = host_key.with_suffix(".pub").read_text().split()
    (place / "known_hosts").write_text(f"[127.0.0.1]:{port} {kind} {public}\n")
    (place / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile {place / 'pid'}\n"
        f"AuthorizedKeysFile {place / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n"
        "SetEnv OMP_NUM_THREADS=1\n"
    )
    (place / "ssh_config").write_text(
        f"Host *\n  IdentityFile {key}\n  IdentitiesOnly yes\n  UserKnownHostsFile {place / 'known_hosts'}\n"
    )


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running `sshd` that lets this user in, its port in the file `port`."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("openssh-server and openssh-client are not installed")
    place, port = tmp_path_factory.mktemp("sshd"), _free_port()
    _configure(place, port)
    (place / "port").write_text(str(port))
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    log = place / "log"
    server = subprocess.Popen([SSHD, "-D", "-f", str(place / "sshd_config"), "-E", str(log)])

    def listens() -> bool:
        if server.poll() is not None:
            pytest.skip(f"sshd cannot run here: {log.read_text().strip()[-300:]}")
        return log.exists() and "listening" in log.read_text()

    try:
        wait_until(listens, 60, "sshd did not start")
        yield place
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def variables(there: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Compute]:
    """Set the variables of a compute over there; what is given replaces a part of them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def make(port: str = (there / "port").read_text(), **other: str) -> Compute:
        address = f"ssh://{getpass.getuser()}@127.0.0.1:{port}{tmp_path / 'remote'}"
        values = {
            "COMPUTE": address,
            "COMPUTE_PYTHON": sys.executable,
            "COMPUTE_SSH_CONFIG": f"{there / 'ssh_config'}",
        }
        for name, value in (values | other).items():
            monkeypatch.setenv(f"CAPTCHA_{name}", value)
        return compute_of(load_settings())

    return make


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], Path]:
    return write_batch(tmp_path_factory.mktemp("batch"), 200)


@pytest.fixture
def job(batch: tuple[list[Path], Path], tmp_path: Path) -> TrainingJob:
    return job_on(batch, tmp_path / "work", TINY)


def run(compute: Compute, job: TrainingJob) -> tuple[list[dict[str, Any]], list[str]]:
    """Train as an asset does; return what the training reported and the lines of the run's log."""
    said: list[dict[str, Any]] = []

    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        said.extend(compute.run(context, job))
        return dg.MaterializeResult()

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([trained], instance=instance, raise_on_error=True)
        return said, [entry.user_message for entry in instance.all_logs(result.run_id)]


def running(place: Path) -> bool:
    """Say whether a training process works on a job below `place`."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"captcha_assets.training" in words and any(str(place).encode() in word for word in words):
            return True
    return False


def checkpoints(place: Path) -> list[Path]:
    """Return the last checkpoints of the jobs below `place`; temporary folders beside them come and go."""
    return list(place.glob("jobs/*/checkpoints/last.ckpt"))


INTERRUPTED = """
import sys
from pathlib import Path
from captcha_assets.defs.compute import compute_of
from captcha_assets.settings import load_settings
from captcha_assets.training.config import TrainingJob
from captcha_assets_tests.defs.test_compute import run
run(compute_of(load_settings()), TrainingJob.load(Path(sys.argv[1])))
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGKILL])
def test_stopping_a_run_stops_the_remote_training_and_keeps_its_checkpoint(
    variables: Callable[..., Compute], job: TrainingJob, tmp_path: Path, stop: signal.Signals
) -> None:
    variables()
    job.model_copy(update={"settings": TINY.replaced(epochs=10_000)}).save(tmp_path / "job.json")
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "job.json")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(
            lambda: running(tmp_path / "remote") or process.poll() is not None, 60, "nothing runs there"
        )
        wait_until(lambda: bool(checkpoints(tmp_path / "remote")), 60, "no checkpoint over there")
        process.send_signal(stop)
        process.wait(40)
        wait_until(lambda: not running(tmp_path / "remote"), 20, "the training still runs")
    finally:
        process.kill()
        process.wait()
    assert checkpoints(tmp_path / "remote")


def test_a_remote_training_goes_on_where_it_was_and_ends_in_the_model_of_this_machine(
    variables: Callable[..., Compute], there: Path, job: TrainingJob, tmp_path: Path
) -> None:
    here = job.model_copy(
        update={"output": tmp_path / "here" / "model", "checkpoints": tmp_path / "here" / "checkpoints"}
    )
    compute = variables()
    _, log = run(LocalCompute(), here)
    assert sum("validation accuracy" in line and line.startswith("epoch ") for line in log) == TINY.epochs
    assert isinstance(compute, RemoteCompute)
    remote = tmp_path / "remote"

    def cut_the_line() -> None:
        wait_until(lambda: bool(checkpoints(remote)), 120, "no checkpoint over there")
        port = f"-p\0{(there / 'port').read_text()}\0".encode()
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            words = entry.read_bytes()
            if words.startswith(b"ssh\0") and port in words:
                os.kill(int(entry.parent.name), signal.SIGKILL)

    cutter = threading.Thread(target=cut_the_line)
    cutter.start()
    with pytest.raises(RemoteHostError, match=r"the connection to 127\.0\.0\.1 broke: .* start it again"):
        run(compute, job)
    cutter.join()
    assert not job.output.exists()

    said, log = run(compute, job)
    reported = [line for line in log if "validation accuracy" in line and line.startswith("epoch ")]
    assert 0 < len(reported) < TINY.epochs, "it started from the first epoch"
    assert not any("sending" in line for line in log), "what was there was sent again"
    assert folder.verify(job.output) == folder.verify(here.output) == said[-1]["model_id"]
    assert list((remote / "jobs").iterdir()) == []
    assert run(compute, job)[0] == [], "what is here already was trained again"


def test_a_remote_training_that_fails_gives_its_own_message(
    variables: Callable[..., Compute], job: TrainingJob
) -> None:
    with pytest.raises(TrainingFailedError, match="raise sample_size") as caught:
        run(variables(), job.model_copy(update={"settings": TINY.replaced(sample_size=1)}))
    assert not isinstance(caught.value, RemoteHostError)


@pytest.mark.parametrize(
    "case",
    [
        ({"port": "1"}, "cannot be reached (ssh: connect to host 127.0.0.1 port 1: Connection refused): "),
        ({"COMPUTE_SSH_CONFIG": "{tmp}/keyless"}, "rejects the key ("),
        ({"COMPUTE_SSH_CONFIG": "{tmp}/strange"}, "is not in known_hosts: accept its key once"),
        ({"COMPUTE_PYTHON": "python3.99"}, "has no python3.99: set CAPTCHA_COMPUTE_PYTHON"),
        ({"COMPUTE_PYTHON": "/usr/bin/true"}, "/usr/bin/true on 127.0.0.1 does not answer as Python does"),
        ({"COMPUTE_PYTHON": "{tmp}/bare"}, "lacks torch, timm, pytorch_lightning, torchmetrics, safetensors"),
    ],
)
def test_a_remote_host_that_cannot_be_used_is_one_clear_line(
    variables: Callable[..., Compute], there: Path, job: TrainingJob, tmp_path: Path, case: tuple[dict, str]
) -> None:
    values, why = case
    known = (there / "ssh_config").read_text()
    (tmp_path / "keyless").write_text(known.replace(f"{there / 'key'}", f"{_key(tmp_path / 'other')}"))
    (tmp_path / "strange").write_text(known.replace(f"{there / 'known_hosts'}", f"{tmp_path / 'nobody'}"))
    (tmp_path / "bare").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (tmp_path / "bare").chmod(0o755)
    with pytest.raises(RemoteHostError) as caught:
        run(variables(**{name: value.format(tmp=tmp_path) for name, value in values.items()}), job)
    assert why in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_full_disk_of_the_remote_host_is_one_clear_line_and_leaves_nothing_half_done(
    variables: Callable[..., Compute], there: Path, job: TrainingJob, small_disk: Path
) -> None:
    address = f"ssh://127.0.0.1:{(there / 'port').read_text()}{small_disk}"
    with pytest.raises(RemoteHostError, match=f"the disk there is full, in {small_disk}: free some"):
        run(variables(COMPUTE=address), job)
    assert list((small_disk / "parts").iterdir()) == []
