"""The files of a home whose content is an input of assets: where each lies, and its version."""

from collections.abc import Callable
from dataclasses import dataclass

from captcha_assets.atomic_files import AnyPath
from captcha_assets.images import label_decisions
from captcha_assets.paths import Paths
from captcha_assets.sources import catalog
from captcha_assets.sweeps import production_settings


@dataclass(frozen=True)
class ObservedFile:
    """A file, under the name of its asset.

    Attributes:
        name: of the asset.
        path: where the file lies.
        version: the version of its content; None where it has never been observed.
        problem: why the file cannot be used, in one line; None where it can be.
    """

    name: str
    path: Callable[[Paths], AnyPath]
    version: Callable[[Paths], str | None]
    problem: Callable[[Paths], str | None] = lambda _: None


BATCH_CATALOG = ObservedFile("batch_catalog", lambda paths: paths.registrations, catalog.version)
LABEL_DECISIONS = ObservedFile(
    "label_decisions",
    lambda paths: paths.label_decisions,
    lambda paths: label_decisions.version_of(paths.label_decisions),
)
TRAINING_SETTINGS = ObservedFile(
    "training_settings",
    lambda paths: paths.training_settings,
    production_settings.production_version,
    production_settings.problem,
)
OBSERVED_FILES = (BATCH_CATALOG, LABEL_DECISIONS, TRAINING_SETTINGS)


def problems(paths: Paths) -> list[str]:
    """Return what is wrong with the files, a line for each that cannot be used."""
    return [found for file in OBSERVED_FILES if (found := file.problem(paths))]
