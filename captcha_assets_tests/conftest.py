"""What all tests share: an environment of their own, a home, an object store, real images."""

import gc
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests share the cores among themselves
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else every command compiles the package

import hypothesis
import pytest
from upath import UPath

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets_tests import fork_server
from captcha_assets_tests.commands import SERVERS

REPOSITORY = Path(__file__).resolve().parent.parent

#: Memory as a file system: on a disk, SQLite waits at each of the many commits of Dagster.
_MEMORY, _BYTES_NEEDED = Path("/dev/shm"), 4 << 30


def _memory_is_usable() -> bool:
    """Return whether memory has the room for the tests' files, and lets them start programs there."""
    return (
        _MEMORY.is_dir()
        and shutil.disk_usage(_MEMORY).free > _BYTES_NEEDED
        and not os.statvfs(_MEMORY).f_flag & os.ST_NOEXEC
    )


if "TMPDIR" not in os.environ and _memory_is_usable():
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

# A shell starts what runs in its background with interrupts ignored, and every process that a test starts
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: What a developer may have set for his own use, and tests must not see.
_OURS = ("CAPTCHA_", "KAGGLE_", "DAGSTER_", "MLFLOW_", "WANDB_")

# In CI always the same examples, so that a red build is the doing of the change; elsewhere new ones, fewer.
_CI = bool(os.environ.get("CI"))
hypothesis.settings.register_profile(
    "captcha_assets", deadline=None, print_blob=True, derandomize=_CI, max_examples=75 if _CI else 25
)
hypothesis.settings.load_profile("captcha_assets")

# Imports make millions of objects that stay; looking through them again and again frees none.
gc.disable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let all workers share the servers that import for them."""
    os.environ.update(fork_server.variables(*SERVERS))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the tests that may take longest first, so that no worker is left alone with one at the end."""
    items.sort(key=_most_seconds, reverse=True)


def _most_seconds(item: pytest.Item) -> float:
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0]) if mark else 0.0


def pytest_collection_finish() -> None:
    """Leave what was imported by now out of every later garbage collection."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Let the interpreter free it when it ends: libraries complain of what is left."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _an_environment_of_their_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of the developer's own settings reaches a test, and no test reaches the developer's home."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(_OURS)]:
            patch.delenv(name)
        patch.setenv("CAPTCHA_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(autouse=True)
def _processes_without_coverage(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test with the mark `no_cover`, which tries often what others try once, no process is measured."""
    if request.node.get_closest_marker("no_cover"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a new, empty home."""
    return Settings(paths=Paths(home=tmp_path / "home"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 300 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real images beside the repository, which are not ours to distribute."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def object_store() -> Iterator[dict[str, str]]:
    """The variables by which a process reaches an S3 server that runs in this process."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # S3 decides on a conditional write and stores it in one step; in moto another thread may come between.
    one_at_a_time, put_object = Lock(), S3Response.put_object

    def put_alone(response: S3Response) -> Any:
        with one_at_a_time:
            return put_object(response)

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "put_object", put_alone)
        yield _variables_of(host, port)
    server.stop()


def _variables_of(host: str, port: int) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture
def bucket(object_store: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[UPath]:
    """An empty bucket of the S3 server; child processes reach it too."""
    for name, value in object_store.items():
        monkeypatch.setenv(name, value)
    place = UPath(f"s3://bucket-{uuid.uuid4().hex}", use_listings_cache=False)
    place.fs.clear_instance_cache()  # an instance keeps the address it was made with
    place.fs.mkdir(place.path)
    yield place
    place.fs.clear_instance_cache()
