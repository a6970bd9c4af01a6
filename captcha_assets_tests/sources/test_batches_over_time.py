"""Whatever happens to batches, in whatever order: what is registered and what lies on the disk agree."""

import contextlib
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import batch_registration
from captcha_assets.sources.archives import BatchError
from captcha_assets.sources.batch_registration import FileSource, Registration, SyntheticSource
from captcha_assets_tests.sources.examples import data_files, files_below, killed_at_step, make_zip

NAMES = st.sampled_from(["a", "b"])
FILES = st.sampled_from(["x.zip", "y.zip"])
CONTENTS = st.integers(0, 2)
#: Before which step on the disk a process is killed; None, as mostly, lets it end.
KILLS = st.integers(-60, 40).map(lambda step: step if step > 0 else None)


class Batches(RuleBasedStateMachine):
    """Adds, overwrites, fetches, damages and removes batches, with processes that are killed."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.settings = Settings(paths=Paths(home=self.folder / "home"))
        #: What is registered: source text and content hash, as far as it is known.
        self.registered: dict[str, Registration] = {}
        for content, file in enumerate(["x.zip", "y.zip"]):
            self.overwrite(file, content)

    def teardown(self) -> None:
        try:
            self.what_can_be_had_is_had()
        finally:
            shutil.rmtree(self.folder)

    def attempt(self, work: Callable[[], object], kill: int | None) -> bool:
        """Do `work`, which may be rejected or killed; return whether it ended well."""
        ended = self.folder / "ended"
        ended.unlink(missing_ok=True)

        def careful() -> None:
            with contextlib.suppress(BatchError):
                work()
                ended.touch()

        if kill is None:
            careful()
        else:
            killed_at_step(careful, self.settings.paths.home, kill)
        return ended.exists()

    @rule(file=FILES, content=CONTENTS)
    def overwrite(self, file: str, content: int) -> None:
        make_zip(self.folder / file, count=2, first=10 * content)

    @rule(file=FILES)
    def lose_the_source(self, file: str) -> None:
        (self.folder / file).unlink(missing_ok=True)

    @rule(name=NAMES, source=FILES.map(str) | st.integers(1, 2), kill=KILLS)
    def add(self, name: str, source: str | int, kill: int | None) -> None:
        place = SyntheticSource(source) if isinstance(source, int) else FileSource(self.folder / source)
        before = self.registered.get(name)
        added = self.attempt(lambda: batch_registration.register(self.settings, name, place), kill)
        now = batch_registration.registration(self.settings.paths, name)
        if added:
            assert now is not None
            if isinstance(place, FileSource):
                content = hashlib.sha256(place.path.read_bytes()).hexdigest()
                assert now.sha256 == content
        elif now != before:  # killed after it was written
            assert kill is not None
        self._now_is(name, now)

    @rule(name=NAMES, kill=KILLS)
    def fetch(self, name: str, kill: int | None) -> None:
        fetched = self.attempt(lambda: batch_registration.fetch(self.settings, name), kill)
        now, before = batch_registration.registration(self.settings.paths, name), self.registered.get(name)
        assert (now is None) == (before is None)
        if now is not None and before is not None:
            assert now.identity == before.identity
        if fetched and now is not None:
            archive = batch_registration.archive_path(self.settings.paths, name)
            assert hashlib.sha256(archive.read_bytes()).hexdigest() == now.sha256
            if isinstance(now.source, SyntheticSource):
                assert len(archive.read_bytes()) > 100
        self._now_is(name, now)

    @rule(name=NAMES, kill=KILLS)
    def remove(self, name: str, kill: int | None) -> None:
        known = name in batch_registration.known_batches(self.settings.paths)
        removed = self.attempt(lambda: batch_registration.remove(self.settings.paths, name), kill)
        assert removed <= known
        if known and kill is None:
            assert removed
        if removed:
            left = [
                path
                for path in files_below(self.settings.paths.home)
                if name in path.split("/")[-1].split(".")
            ]
            assert left in ([], [f".scratch/locks/{name}.lock"])
        self._now_is(name, batch_registration.registration(self.settings.paths, name))

    @rule(name=NAMES, garbage=st.booleans())
    def damage(self, name: str, garbage: bool) -> None:
        archive = batch_registration.archive_path(self.settings.paths, name)
        if archive.exists():
            archive.write_bytes(b"garbage") if garbage else archive.unlink()

    @rule(name=NAMES)
    def make_tables(self, name: str) -> None:
        if name in batch_registration.known_batches(self.settings.paths):
            for place in (self.settings.paths.image_table(name), self.settings.paths.rejected_images(name)):
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(b"table")

    def _now_is(self, name: str, entry: Registration | None) -> None:
        self.registered.pop(name, None)
        if entry is not None:
            self.registered[name] = entry

    @invariant()
    def nothing_but_whole_archives_and_registrations_lies_about(self) -> None:
        assert set(data_files(self.settings)) <= {"raw/a.zip", "raw/b.zip"}
        entries = {entry.batch: entry for entry in batch_registration.all_registrations(self.settings.paths)}
        assert entries == self.registered

    def what_can_be_had_is_had(self) -> None:
        """Every batch is fetched as it is registered if its source still has that, and rejected if not."""
        for name, entry in self.registered.items():
            archive, source = batch_registration.archive_path(self.settings.paths, name), entry.source
            have = [archive] + ([source.path] if isinstance(source, FileSource) else [])
            hashes = {hashlib.sha256(path.read_bytes()).hexdigest() for path in have if path.exists()}
            if isinstance(source, SyntheticSource) or entry.sha256 in hashes:
                found = batch_registration.fetch(self.settings, name).sha256
                assert hashlib.sha256(archive.read_bytes()).hexdigest() == found
                assert entry.sha256 in (None, found)
            else:
                with pytest.raises(BatchError):
                    batch_registration.fetch(self.settings, name)


TestBatches = Batches.TestCase
TestBatches.settings = hypothesis_settings(
    max_examples=hypothesis_settings.default.max_examples // 3, stateful_step_count=25, deadline=None
)
