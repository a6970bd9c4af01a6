"""Locks by name, which exclude every other process of a home: on one machine, or on all hosts that share it.

In the profile `local`, a lock is a locked file of the home: the system drops it when the process ends. In the
profile `shared`, it is an advisory lock of the database: the server drops it when the connection of its
process ends, within a minute where the host itself is gone.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from captcha_assets import interrupts
from captcha_assets.paths import Paths

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 - a class, whose name is in lower case

#: Seconds between two looks at a lock that another host has.
_INTERVAL = 0.5
#: Seconds that connecting may take.
_TIMEOUT = 10
#: The server notices after 30 + 3 * 10 seconds that a host is gone.
_KEEPALIVES = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"


class DatabaseError(RuntimeError):
    """The database of the profile `shared` cannot be used; the message says what to do."""


@contextmanager
def exclusive(paths: Paths, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock while the block runs.

    Args:
        paths: the home; with the profile `shared`, all homes of one database have the same locks.
        name: of the lock, a file name.
        waiting: is called once if another process has the lock.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    if paths.shared_database is None:
        with locked_file(paths.scratch, name, waiting):
            yield
        return
    with closing(connected(paths.shared_database)) as connection:
        _take(connection, name, waiting)
        yield


@contextmanager
def locked_file(folder: Path, name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a file in `folder`, which is created, while the block runs; see `exclusive`."""
    path = folder / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "w") as lock:  # a pipe waits for no reader
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                waiting()
            interrupts.check()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def connected(address: str) -> "Connection":
    """Return a connection to the database at `address`, each of whose statements is a transaction.

    Raises:
        DatabaseError: the database cannot be reached, or psycopg2 is not installed.
    """
    try:
        import psycopg2  # noqa: PLC0415 - the profile `local` does without it
    except ModuleNotFoundError as error:
        raise DatabaseError(
            "CAPTCHA_PROFILE=shared needs psycopg2: install captcha-assets[postgres]"
        ) from error
    try:
        connection = psycopg2.connect(
            address.replace("postgresql+psycopg2://", "postgresql://", 1),
            connect_timeout=_TIMEOUT,
            options=_KEEPALIVES,
            application_name="captcha-assets",
        )
    except psycopg2.Error as error:
        words = " ".join(str(error).split())
        if "FATAL: " in words:  # the server's own word
            raise DatabaseError(
                f"the server of CAPTCHA_DATABASE refuses the connection: {words}; check user, password and "
                "name of the database in the address (docs/shared.md)"
            ) from error
        raise DatabaseError(
            f"the database of CAPTCHA_DATABASE cannot be reached: {words}; check the address, and that the "
            "server runs"
        ) from error
    connection.autocommit = True  # a transaction that stays open would keep the server from cleaning up
    return connection


def _take(connection: "Connection", name: str, waiting: Callable[[], None] | None) -> None:
    """Wait for a lock. Asks again and again: a call that waits in the server is not interrupted by Ctrl-C."""
    first = True
    with connection.cursor() as cursor:
        while True:
            cursor.execute("SELECT pg_try_advisory_lock(%s)", (_key(name),))
            row = cursor.fetchone()
            if row and row[0]:
                return
            if first and waiting:
                waiting()
            first = False
            interrupts.check()
            time.sleep(_INTERVAL)


def _key(name: str) -> int:
    """Return the number of a lock: 63 bits, the same on every host."""
    return int.from_bytes(hashlib.sha256(f"captcha_assets {name}".encode()).digest()[:8]) >> 1
