"""Great Expectations' own site, Data Docs, of the stored validation results."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from great_expectations.core.expectation_validation_result import (
    ExpectationSuiteValidationResult,
    expectationSuiteValidationResultSchema,
)
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)

from captcha_assets.atomic_files import AnyPath, replacing_folder
from captcha_assets.dataset import DatasetSpec
from captcha_assets.paths import Paths
from captcha_assets.quality import validation, validation_result
from captcha_assets.quality.suites import SUITES
from captcha_assets.quality.validation_result import RESULT_FILE, ValidationResult, ValidationResultError

_Results = Iterator[tuple[ValidationResultIdentifier, ExpectationSuiteValidationResult]]


class DataDocs(NamedTuple):
    """The path of the site's first page, and why results are not in it, one line for each table."""

    first_page: AnyPath
    left_out: tuple[str, ...]


def build(paths: Paths, spec: DatasetSpec) -> DataDocs:
    """Build the site in `paths.data_docs`.

    Results that cannot be used are left out, and named. Those of versions with a format of their own are
    left out.

    Raises:
        ValidationResultError: there are no results that can be used.
    """
    validations, left_out = _stored(paths)
    if not validations:
        raise ValidationResultError(
            "; ".join(left_out)
            or "there are no validation results yet: captcha-assets update materializes the tables"
        )
    context = validation.context()
    for name, suite in SUITES.items():
        context.suites.add(validation.suite_of(name, suite(spec)))
    for path, found in validations.items():
        for identifier, result in _as_great_expectations_knows_them(path, found):
            context.validation_results_store.set(identifier, result)
    with replacing_folder(paths.data_docs) as folder:
        context.add_data_docs_site("data_docs", _site(folder))
        context.build_data_docs(["data_docs"])
    return DataDocs(paths.data_docs / "index.html", left_out)


def _site(folder: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)},
    }


def _stored(paths: Paths) -> tuple[dict[AnyPath, ValidationResult], tuple[str, ...]]:
    """Return the stored validation results by their file, and why others cannot be used."""
    found_files: list[AnyPath] = [*(paths.artifact_root / "quality").glob(f"**/{RESULT_FILE}")]
    validations: dict[AnyPath, ValidationResult] = {}
    left_out = []
    for path in sorted(found_files, key=str):
        try:
            validations[path] = validation_result.load(path.parent)
        except ValidationResultError as error:
            left_out.append(str(error))
    return validations, tuple(left_out)


def _as_great_expectations_knows_them(path: AnyPath, found: ValidationResult) -> _Results:
    validated = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    subject = found.subject.replace("/", "-")
    run = RunIdentifier(run_name=subject, run_time=validated)
    for suite in found.suites:
        identifier = ValidationResultIdentifier(ExpectationSuiteIdentifier(suite["suite_name"]), run, subject)
        result = expectationSuiteValidationResultSchema.load(suite)
        result.meta["run_id"] = run
        yield identifier, result
