"""Which object store the database of the profile `shared` belongs to: the one that it was first used with.

It is noted in Dagster's table of keys and values. Every command compares it, so that this module does
without Dagster, whose import takes seconds.
"""

from contextlib import closing

from captcha_assets import locks
from captcha_assets.paths import Paths

#: Under what the database notes which store its runs are about.
KEY = "captcha_assets/artifacts"


class DatabaseStoreError(RuntimeError):
    """The database and the artifacts do not belong together; the message names both stores."""


def check(paths: Paths) -> None:
    """Reject the artifacts of a home whose database belongs to others, before anything is written there.

    A database that cannot be reached is left to what needs it: the service answers without.

    Raises:
        DatabaseStoreError: the database belongs to another store.
    """
    if paths.shared_database is None:
        return
    try:
        connection = locks.connected(paths.shared_database)
    except locks.DatabaseError:
        return
    with closing(connection), connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('kvs')")
        if cursor.fetchone() == (None,):  # not used yet
            return
        cursor.execute("SELECT value FROM kvs WHERE key = %s", (KEY,))
        row = cursor.fetchone()
    compare(paths, row[0] if row else None)


def compare(paths: Paths, known: str | None) -> None:
    """Reject the artifacts of a home where its database belongs to those in `known`; None where it is new.

    Raises:
        DatabaseStoreError: they are others.
    """
    if known not in (None, paths.artifacts):
        raise DatabaseStoreError(
            f"the database of CAPTCHA_DATABASE belongs to the artifacts in {known}, and CAPTCHA_ARTIFACTS is "
            f"{paths.artifacts}: correct one of the two"
        )
