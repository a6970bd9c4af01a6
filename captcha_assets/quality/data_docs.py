"""Great Expectations' own site, Data Docs, of the stored validation results."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    expectationSuiteValidationResultSchema,
)
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)

from captcha_assets.dataset import DatasetSpec
from captcha_assets.paths import Paths
from captcha_assets.quality import validation, validation_result
from captcha_assets.quality.suites import SUITES
from captcha_assets.quality.validation_result import RESULT_FILE, ValidationResultError
from captcha_assets.storage import AnyPath, replacing_folder

_Results = Iterator[tuple[ValidationResultIdentifier, ExpectationSuiteValidationResult]]


def build(paths: Paths, spec: DatasetSpec) -> AnyPath:
    """Build the site in `settings.data_docs`, and return the path of its first page.

    Results that cannot be read, and those of versions with a format of their own, are left out.

    Raises:
        ValidationResultError: there are no results.
    """
    found = dict(_stored(paths))
    if not found:
        raise ValidationResultError(
            "there are no validation results yet: captcha-assets update materializes the tables"
        )
    context = validation.context()
    for name, suite in SUITES.items():
        context.suites.add(validation.suite_of(name, suite(spec)))
    for identifier, result in found.items():
        context.validation_results_store.set(identifier, result)
    with replacing_folder(paths.data_docs) as folder:
        context.add_data_docs_site("data_docs", _site(folder))
        context.build_data_docs(["data_docs"])
    return paths.data_docs / "index.html"


def _site(folder: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _stored(paths: Paths) -> _Results:
    found_files: list[AnyPath] = [*(paths.artifact_root / "quality").glob(f"**/{RESULT_FILE}")]
    for path in sorted(found_files, key=str):
        try:
            found = validation_result.load(path.parent)
        except ValidationResultError:
            continue
        validated = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        subject = found.subject.replace("/", "-")
        run = RunIdentifier(run_name=subject, run_time=validated)
        for suite in found.suites:
            identifier = ValidationResultIdentifier(
                ExpectationSuiteIdentifier(suite["suite_name"]), run, subject
            )
            result = expectationSuiteValidationResultSchema.load(suite)
            result.meta["run_id"] = run
            yield identifier, result
