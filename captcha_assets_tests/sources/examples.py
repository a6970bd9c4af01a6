"""Batches to test with, and processes that end in the middle of their work."""

import os
import resource
import signal
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from captcha_assets.settings import Settings

#: Audit events that are steps on the disk.
_STEPS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def image_bytes(number: int, size: int = 1500) -> bytes:
    """Bytes that do not compress, like those of a PNG."""
    return np.random.Generator(np.random.PCG64(number)).bytes(size)


def make_zip(path: Path, count: int = 5, first: int = 0, size: int = 1500) -> Path:
    """Write a zip of `count` files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(first, first + count):
            info = zipfile.ZipInfo(f"Dataset/a_{number}.png")  # its time is the same always
            archive.writestr(info, image_bytes(number, size))
    return path


def make_folder(path: Path, count: int = 5, first: int = 0) -> Path:
    """Write a folder of `count` files, some of them in a folder below."""
    (path / "more").mkdir(parents=True)
    for number in range(first, first + count):
        name = f"more/b_{number}.png" if number % 2 else f"a_{number}.png"
        (path / name).write_bytes(image_bytes(number))
    return path


def members(archive: Path) -> dict[str, bytes]:
    """Names and contents of an archive's files."""
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def files_below(folder: Path) -> list[str]:
    """All names below a folder that are not folders, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def data_files(settings: Settings) -> list[str]:
    """All that lies in `data/`, which DVC tracks."""
    return files_below(settings.paths.home / "data")


def in_child(work: Callable[[], object], prepare: Callable[[], None]) -> int:
    """Fork a process that does `work`; return its exit code, negative for a signal."""
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            prepare()
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_step(work: Callable[[], object], folder: Path, step: int) -> bool:
    """Do `work` in a process that is killed before its n-th step on the disk below `folder`.

    Returns:
        Whether it came that far; `False` when the work ended before.
    """
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in _STEPS and str(arguments[0]).startswith(str(folder)):
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)

    status = in_child(work, lambda: sys.addaudithook(hook))
    assert status in (0, -signal.SIGKILL), f"the work failed with {status} at step {step}"
    return status != 0


def killed_while_writing(work: Callable[[], object], size: int) -> bool:
    """Do `work` in a process that the kernel kills when it has written `size` bytes of one file."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return in_child(work, prepare) == -signal.SIGXFSZ


def as_nobody(work: Callable[[], object]) -> int:
    """Do `work` in a process whom permissions bind, which they do not bind root; return its exit code."""

    def prepare() -> None:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)

    return in_child(work, prepare)
