import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration, kaggle
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.batch_registration import KaggleSource
from captcha_assets.sources.kaggle import KaggleCredentialsError, KaggleError, KaggleVersion
from captcha_assets_tests.sources.examples import data_files, files_below, make_zip
from captcha_assets_tests.sources.kaggle_server import Kaggle, port, serve

pytestmark = pytest.mark.xdist_group("kaggle_server")  # the port is fixed

MB = 1 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> bytes:
    """An archive of 5 MB: kagglehub writes to the disk a megabyte at a time."""
    return make_zip(tmp_path_factory.mktemp("archive") / "5mb.zip", count=5, size=MB).read_bytes()


@pytest.fixture
def no_credentials(monkeypatch, tmp_path) -> None:
    """A user who has never signed in to Kaggle."""
    home = tmp_path / "user"
    home.mkdir()
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(home / ".kaggle"))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")


@pytest.fixture
def signed_in(no_credentials, monkeypatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "secret-token")


@pytest.fixture
def server(signed_in, archive) -> Iterator[Kaggle]:
    """Kaggle, with two versions of a data set."""
    with serve(Kaggle(archives={1: b"PK\x05\x06" + bytes(18), 2: archive})) as kaggle_server:
        yield kaggle_server


class Download:
    """One download, and all that came of it."""

    def __init__(self, folder: Path, version: int | None = None, dataset: str = "someone/letters") -> None:
        self.lines: list[str] = []
        self.target = folder / "target.zip"
        self.scratch = folder / "scratch"
        self.version, self.dataset = version, dataset

    def run(self) -> KaggleVersion:
        return kaggle.download(self.dataset, self.version, self.target, self.scratch, self.lines.append)

    @property
    def left(self) -> list[str]:
        return [name for name in files_below(self.scratch) if not name.endswith(".lock")]


@pytest.fixture
def download(tmp_path) -> Download:
    return Download(tmp_path)


# --- what is published ----------------------------------------------------------------------------------


def test_the_published_version_is_the_newest(server):
    assert kaggle.published_version("someone/letters") == KaggleVersion(
        "someone/letters", 2, bytes=123, updated="2024-05-17"
    )
    assert server.requests[0].body == {"ownerSlug": "someone", "datasetSlug": "letters"}


def test_kaggle_sees_its_own_client_and_the_token(server):
    kaggle.published_version("someone/letters")
    assert server.requests[0].authorization == "Bearer secret-token"
    assert server.requests[0].user_agent.startswith("kagglehub/1.")


def test_name_and_key_serve_as_well_as_a_token(server, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "my-key")
    assert kaggle.published_version("someone/letters").version == 2


def test_the_file_in_the_users_folder_serves_as_well(server, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    folder.mkdir()
    (folder / "kaggle.json").write_text(json.dumps({"username": "me", "key": "my-key"}))
    assert kaggle.published_version("someone/letters").version == 2


def test_a_damaged_credentials_file_is_named(server, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    folder = Path(os.environ["KAGGLE_CONFIG_DIR"])
    folder.mkdir()
    (folder / "kaggle.json").write_text("{")
    with pytest.raises(
        KaggleCredentialsError, match=r"\.kaggle/kaggle.json: repair it, or set KAGGLE_API_TOKEN"
    ):
        kaggle.published_version("someone/letters")


def test_a_data_set_without_a_version_is_one_clear_line(server):
    server.archives = {}
    with pytest.raises(KaggleError, match="names no version of someone/letters"):
        kaggle.published_version("someone/letters")


# --- downloads that go well -----------------------------------------------------------------------------


def test_the_archive_arrives_exactly_as_served(server, download, archive):
    assert download.run() == KaggleVersion("someone/letters", 2, bytes=len(archive))
    assert download.target.read_bytes() == archive
    assert download.left == []


def test_a_chosen_version_is_the_one_downloaded(server, download, archive):
    server.archives = {1: archive, 2: b"not this one"}
    download.version = 1
    assert download.run().version == 1
    assert download.target.read_bytes() == archive
    assert server.asked("GetDataset") == []


def test_the_credentials_go_to_kaggle_and_not_to_the_store(server, download):
    download.run()
    assert [request.authorization for request in server.asked("/store/")] == [None]
    assert {request.authorization for request in server.asked("/api/")} == {"Bearer secret-token"}


def test_progress_is_reported_while_bytes_arrive(server, download):
    server.pause_after = 3 * MB + 1000

    def report(line: str) -> None:
        download.lines.append(line)
        if " % of " in line:
            server.go_on.set()

    kaggle.download("someone/letters", 2, download.target, download.scratch, report)
    assert download.lines[0].startswith("Kaggle someone/letters version 2: 5,24")
    assert any(" % of 5,24" in line for line in download.lines)


def test_nothing_is_written_on_standard_output(server, download, capfd):
    download.run()
    assert capfd.readouterr().out == ""


def test_a_store_that_tells_neither_size_nor_hash_is_checked_by_the_archive_itself(server, download, archive):
    server.length, server.md5 = False, ""
    download.run()
    assert download.target.read_bytes() == archive


# --- broken downloads -----------------------------------------------------------------------------------


def test_a_broken_connection_is_taken_up_where_it_broke(server, download, archive):
    server.cuts = [2 * MB + 10]
    download.run()
    assert download.target.read_bytes() == archive
    assert [request.range for request in server.asked("/store/")] == [None, None, f"bytes={2 * MB}-"]
    assert any(
        "connection lost after 2,097,152 bytes; resuming from there" in line for line in download.lines
    )


def test_a_connection_that_keeps_breaking_still_ends_in_the_archive(server, download, archive):
    # Each new attempt first asks for the whole, and then for what is missing.
    server.cuts = [1 * MB + 10, 0, 1 * MB + 10]
    download.run()
    assert download.target.read_bytes() == archive


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(server, download, archive, monkeypatch):
    monkeypatch.setattr(kaggle, "_TIMEOUT", (5, 0.5))
    server.pause_after = 2 * MB + 10
    download.run()
    assert download.target.read_bytes() == archive
    assert server.asked("/store/")[-1].range == f"bytes={2 * MB}-"


def test_what_an_earlier_call_received_is_not_downloaded_again(server, download, archive):
    download.scratch.mkdir()
    (download.scratch / "someone--letters--2.zip").write_bytes(archive[: 3 * MB])
    download.run()
    assert download.target.read_bytes() == archive
    assert server.asked("/store/")[-1].range == f"bytes={3 * MB}-"


def test_a_store_without_ranges_is_asked_for_the_whole_again(server, download, archive):
    server.ranges, server.cuts = False, [2 * MB + 10]
    download.run()
    assert download.target.read_bytes() == archive
    assert {request.range for request in server.asked("/store/")} == {None}


@pytest.mark.parametrize(
    "left",
    [
        pytest.param(lambda _: bytes(MB), id="the beginning of something else"),
        pytest.param(lambda archive: bytes(len(archive)), id="something else of the same size"),
        pytest.param(lambda archive: archive + b"more", id="more than the archive"),
    ],
)
def test_leftovers_that_do_not_fit_are_replaced(server, download, archive, left):
    download.scratch.mkdir()
    (download.scratch / "someone--letters--2.zip").write_bytes(left(archive))
    download.run()
    assert download.target.read_bytes() == archive


def test_leftovers_that_do_not_fit_are_replaced_even_where_no_hash_is_announced(server, download, archive):
    server.md5 = ""
    download.scratch.mkdir()
    (download.scratch / "someone--letters--2.zip").write_bytes(bytes(MB))
    download.run()
    assert download.target.read_bytes() == archive


def test_a_corrupt_download_is_repeated_from_the_start(server, download, archive):
    server.damage_once = True
    download.run()
    assert download.target.read_bytes() == archive
    assert any("md5 is not the one announced; starting over" in line for line in download.lines)


def test_a_download_that_stays_corrupt_is_one_clear_line_and_leaves_nothing(server, download):
    server.md5 = base64.b64encode(bytes(16)).decode()
    with pytest.raises(KaggleError, match=r"version 2 arrived corrupt \(its md5 is not the one announced\)"):
        download.run()
    assert not download.target.exists()
    assert download.left == []


def test_a_damaged_member_is_found_without_any_announced_hash(server, download, archive):
    server.md5 = ""
    server.archives[2] = archive[: MB // 2] + bytes(100) + archive[MB // 2 + 100 :]
    with pytest.raises(KaggleError, match=r"its member Dataset/a_0.png is damaged"):
        download.run()
    assert not download.target.exists()


def test_what_is_no_archive_is_rejected(server, download):
    server.archives[2] = b"<html>Sign in</html>"
    with pytest.raises(KaggleError, match="not a complete zip archive"):
        download.run()
    assert download.left == []


def test_a_connection_that_never_brings_anything_gives_up(server, download):
    server.cuts = [0] * 20
    with pytest.raises(KaggleError, match="no answer that can be used"):
        download.run()
    assert len(server.asked("/store/")) == 1


def test_a_full_disk_is_an_error_and_gives_the_space_back(server, tmp_path):
    script = (
        "import resource, sys; from pathlib import Path; from captcha_assets.sources import kaggle;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, 2_500_000));"
        "kaggle.download('someone/letters', 2, Path('target.zip'), Path('scratch'), print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "File too large" in done.stderr
    assert files_below(tmp_path / "scratch") == ["someone--letters--2.lock"]
    assert not (tmp_path / "target.zip").exists()


# --- answers that are no ---------------------------------------------------------------------------------


def test_without_credentials_one_line_says_what_to_set(no_credentials):
    with pytest.raises(KaggleCredentialsError) as error:
        kaggle.published_version("someone/letters")
    assert str(error.value).startswith("no credentials for Kaggle: set KAGGLE_API_TOKEN")
    assert "KAGGLE_USERNAME and KAGGLE_KEY" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_credentials_are_one_clear_line(server, download, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "expired")
    with pytest.raises(
        KaggleCredentialsError, match=r"Kaggle rejected the credentials \(401\): set KAGGLE_API_TOKEN"
    ):
        download.run()


def test_an_unknown_data_set_is_one_clear_line(server):
    with pytest.raises(KaggleError, match=r"Kaggle someone/else: there is none \(404\): look up"):
        kaggle.published_version("someone/else")


def test_an_unknown_version_is_one_clear_line(server, download):
    download.version = 99
    with pytest.raises(KaggleError, match=r"Kaggle someone/letters version 99: there is none \(404\)"):
        download.run()


REFUSALS = pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, r"this account may not read it \(403\): accept its terms at"),
        (429, r"too many requests \(429\): try again in 30 seconds"),
        (500, r"Kaggle answered with an error \(500\): try again later"),
        (503, r"Kaggle answered with an error \(503\): try again later"),
    ],
)


@REFUSALS
@pytest.mark.parametrize("call", ["GetDataset", "DownloadDataset"])
def test_what_kaggle_rejects_is_one_clear_line(server, download, call, status, words):
    server.statuses[call] = status
    with pytest.raises(KaggleError, match=words) as error:
        download.run()
    assert "\n" not in str(error.value)
    assert not download.target.exists()


@REFUSALS
def test_a_rejection_in_the_body_of_an_answer_that_claims_success_is_one_too(server, status, words):
    server.statuses["GetDataset"], server.error_in_body = status, True
    with pytest.raises(KaggleError, match=words):
        kaggle.published_version("someone/letters")


@pytest.mark.parametrize("status", [403, 404, 500])
def test_what_the_store_rejects_is_one_clear_line_and_keeps_what_there_is(server, download, archive, status):
    download.scratch.mkdir()
    (download.scratch / "someone--letters--2.zip").write_bytes(archive[:MB])
    server.store_status = status
    with pytest.raises(KaggleError, match=rf"\({status}\)"):
        download.run()
    assert download.left == ["someone--letters--2.zip"]


def test_an_answer_that_is_not_the_apis_is_one_clear_line(server):
    server.api_body = b"<html>Welcome to the hotel's network</html>"
    with pytest.raises(KaggleError, match="no answer that can be used") as error:
        kaggle.published_version("someone/letters")
    assert "hotel" not in str(error.value)


def test_no_network_is_one_clear_line(signed_in, download):
    words = r"no answer that can be used \(ConnectionError\); check the network"
    with port(), pytest.raises(KaggleError, match=words):
        download.run()


@pytest.mark.parametrize("dataset", ["", "letters", "a/b/c/d/e", "someone/"])
def test_what_names_no_data_set_is_one_clear_line(signed_in, dataset):
    with pytest.raises(KaggleError):
        kaggle.published_version(dataset or "/")


# --- as a batch --------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path) -> Settings:
    return Settings(paths=Paths(home=tmp_path / "home"), kaggle_dataset="someone/letters")


def test_a_batch_from_kaggle_records_its_version(server, home, archive):
    batch_registration.register(home, "letters", KaggleSource())
    raw = batch_registration.fetch(home, "letters")
    assert (raw.kaggle_version, raw.source, raw.members) == (2, "kaggle", 5)
    assert raw.path.read_bytes() == archive
    assert data_files(home) == ["raw/letters.zip"]


def test_a_version_published_later_does_not_change_a_batch(server, home, archive):
    batch_registration.register(home, "letters", KaggleSource())
    first = batch_registration.fetch(home, "letters")
    server.archives[3] = b"something new"
    assert batch_registration.fetch(home, "letters") == first
    first.path.unlink()
    assert batch_registration.fetch(home, "letters") == first


def test_a_batch_stays_with_the_data_set_it_was_registered_for(server, home, archive):
    batch_registration.register(home, "letters", KaggleSource(2))
    moved = Settings(paths=Paths(home=home.paths.home), kaggle_dataset="other/one")
    assert batch_registration.fetch(moved, "letters").path.read_bytes() == archive


def test_registering_asks_nobody(no_credentials, home):
    batch_registration.register(home, "letters", KaggleSource())
    with pytest.raises(BatchError, match="no credentials for Kaggle"):
        batch_registration.fetch(home, "letters")
    assert data_files(home) == []


FETCH = (
    "import sys; from pathlib import Path; from captcha_assets.paths import Paths;"
    "from captcha_assets.settings import Settings;"
    "from captcha_assets.sources import batch_registration;"
    "batch_registration.fetch(Settings(paths=Paths(home=Path(sys.argv[1]))), 'letters')"
)


def test_killed_in_the_middle_of_a_download_it_goes_on_where_it_was(server, home, archive):
    batch_registration.register(home, "letters", KaggleSource())
    server.pause_after = 3 * MB + 1000
    running = subprocess.Popen([sys.executable, "-c", FETCH, str(home.paths.home)], stderr=subprocess.DEVNULL)
    part = home.paths.scratch / "kaggle" / "someone--letters--2.zip"
    while running.poll() is None and not (part.exists() and part.stat().st_size >= 3 * MB):
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    server.go_on.set()
    assert data_files(home) == []
    assert part.stat().st_size == 3 * MB
    assert batch_registration.fetch(home, "letters").path.read_bytes() == archive
    assert server.asked("/store/")[-1].range == f"bytes={3 * MB}-"
    assert not part.exists()


def test_two_batches_of_one_version_at_once_do_not_mix(server, home, archive):
    failures = []

    def fetch(name: str) -> None:
        try:
            batch_registration.register(home, name, KaggleSource(2))
            batch_registration.fetch(home, name)
        except BatchError as error:
            failures.append(error)

    threads = [threading.Thread(target=fetch, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert {path.read_bytes() == archive for path in home.paths.raw.iterdir()} == {True}
    assert zipfile.is_zipfile(home.paths.raw / "two.zip")


def test_loading_the_module_does_not_load_the_client():
    script = (
        "import sys; import captcha_assets.sources.batch_registration, captcha_assets.sources.kaggle,"
        " captcha_assets.sources.inbox; sys.exit('kagglehub' in sys.modules or 'matplotlib' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
