"""A process that starts writers, so that a test can kill them as a machine would: at any moment.

Run as a script it reads one JSON object a line: `{"start": [how, target, generation, rounds]}` forks a
writer and answers with its process id; `{"kill": pid}` kills it, `{"wait": pid}` waits for it; both
answer with its wait status.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from captcha_assets.atomic_files import replacing, replacing_folder

#: Size of one file in bytes: large enough that a kill falls into the middle of writing it.
SIZE = 400_000


def _write(path: Path, generation: int) -> None:
    with path.open("wb") as file:
        for _ in range(8):
            file.write(bytes([generation % 256]) * (SIZE // 8))
            file.flush()
            time.sleep(0)


def write_file(target: Path, generation: int) -> None:
    """Replace `target` by a file that holds `SIZE` times the same byte."""
    with replacing(target) as part:
        _write(part, generation)


def write_folder(target: Path, generation: int) -> None:
    """Replace `target` by a folder of three such files, all of the same byte."""
    with replacing_folder(target) as part:
        (part / "deep").mkdir()
        for name in ("a", "b", "deep/c"):
            _write(part / name, generation)


def write_small_folder(target: Path, generation: int) -> None:
    """Replace `target` by a folder that is written quickly, so that writers meet often."""
    with replacing_folder(target) as part:
        (part / "a").write_bytes(bytes([generation % 256]) * SIZE)


WRITE = {"file": write_file, "folder": write_folder, "small_folder": write_small_folder}


def generation_of(target: Path) -> int:
    """Return the byte a file or folder is made of; an assertion fails where it is not complete."""
    files = [target] if target.is_file() else [path for path in target.rglob("*") if path.is_file()]
    assert len(files) in {1, 3}, f"{target} holds {len(files)} files"
    contents = {file.read_bytes() for file in files}
    assert len(contents) == 1, f"{target} mixes two generations"
    content = contents.pop()
    assert content == content[:1] * SIZE, f"{target} is not complete: {len(content)} bytes"
    return content[0]


def _start(how: str, target: str, generation: int, rounds: int) -> int:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            for number in range(rounds):
                WRITE[how](Path(target), generation + number)
            status = 0
        finally:
            os._exit(status)
    return pid


def _serve() -> None:
    for line in sys.stdin:
        ((command, value),) = json.loads(line).items()
        if command == "start":
            answer = _start(*value)
        else:
            if command == "kill":
                os.kill(value, signal.SIGKILL)
            answer = os.waitpid(value, 0)[1]
        print(answer, flush=True)


class Writers:
    """The process above, seen from a test."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _ask(self, **command: Any) -> int:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, how: str, target: Path, generation: int, rounds: int = 1_000_000) -> int:
        """Start a writer that replaces `target` again and again; return its process id."""
        return self._ask(start=[how, str(target), generation, rounds])

    def kill(self, pid: int) -> None:
        """Kill a writer, whatever it is doing."""
        self._ask(kill=pid)

    def wait(self, pid: int) -> int:
        """Wait for a writer's end; zero says that all its rounds went well."""
        return self._ask(wait=pid)


if __name__ == "__main__":
    _serve()
