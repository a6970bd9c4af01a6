"""The stored validation results of a table, as Great Expectations wrote them. Light to import.

`ValidationResult` holds the JSON of `ExpectationSuiteValidationResult`, one for each suite of the table;
`ExpectationResult` is what a reader wants of a single result.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from textwrap import shorten
from typing import Any, Literal

from captcha_assets.atomic_files import (
    AnyPath,
    contents,
    json_text,
    raise_if_passing,
    regular,
    replacing_folder,
)
from captcha_assets.paths import Paths
from captcha_assets.quality.expectation_problems import (
    IMAGE_COLUMNS,
    error_messages,
    found_in_words,
    problem_of,
    value_in_words,
)

#: Names of the files of stored validation results: the results, their page, the runs that a large table was
#: validated in, and the SHA-256 of all.
RESULT_FILE = "validation_result.json"
REPORT_FILE = "report.html"
RUNS_FILE = "runs.json"
MANIFEST = "manifest.json"
#: The name and format of versions before this one: read where there is no `RESULT_FILE`.
_EARLIER_FILE = "verdict.json"

#: At most this many unexpected rows are kept of each expectation.
MAX_EXAMPLES = 10

#: The runs of each suite of a table, see `validation_runs`; JSON knows their values.
Runs = Mapping[str, Sequence[Sequence[Any]]]


class ValidationResultError(ValueError):
    """Stored validation results that are absent, damaged or changed; the message names the file."""


class QuarantinedError(RuntimeError):
    """A batch that failed a blocking check; the message says which, and what to do."""

    def __init__(self, batch: str, result: "ValidationResult") -> None:
        failed = "; ".join(f"{one.name} ({one.found})" for one in result.failures)
        super().__init__(
            f"batch {batch} is quarantined: {failed} failed; correct its images and add it again under the "
            f"same name and path (captcha-assets batch add), or remove it "
            f"(captcha-assets batch remove {batch})"
        )


@dataclass(frozen=True)
class ExpectationResult:
    """The result of one expectation.

    Attributes:
        name: of the asset check, see `suites`.
        notes: what the expectation is for.
        severity: "critical" where a failure blocks the assets that depend on the table, else "warning".
        success: whether the table is as expected.
        expected: the expectation with its arguments, in words.
        observed: what the table holds, in words.
        examples: up to ten unexpected rows: what identifies each, and its values.
        unexpected_count: how many there are.
        problem: what is wrong, in plain words, and what was expected; empty where nothing is.
        found: what is wrong alone, without an example.
    """

    name: str
    notes: str
    severity: Literal["critical", "warning"]
    success: bool
    expected: str
    observed: str
    examples: Sequence[Mapping[str, Any]] = ()
    unexpected_count: int = 0
    problem: str = ""
    found: str = ""

    @property
    def blocking(self) -> bool:
        """Whether a failure blocks the assets that depend on the table."""
        return self.severity == "critical"

    @property
    def level(self) -> Literal["passed", "warning", "failed"]:
        """The outcome in one word."""
        if self.success:
            return "passed"
        return "failed" if self.blocking else "warning"


@dataclass(frozen=True)
class ValidationResult:
    """All validation results of one table.

    Attributes:
        subject: what was validated, such as `image_table/first`.
        rows: number of rows of the table.
        suites: the result of each suite, as Great Expectations writes it.
        images: the images among the unexpected rows, where they could be had: image id to base64 PNG.
        runs: those that the results of large suites consist of; stored beside the results.
    """

    subject: str
    rows: int
    suites: Sequence[Mapping[str, Any]]
    images: Mapping[str, str] = field(default_factory=dict)
    runs: Runs = field(default_factory=dict, compare=False)

    @cached_property
    def results(self) -> tuple[ExpectationResult, ...]:
        """The result of each expectation, in the order of the suites."""
        return tuple(_result(one) for suite in self.suites for one in suite["results"])

    @property
    def passed(self) -> bool:
        """Whether no blocking check failed."""
        return not self.failures

    @property
    def state(self) -> str:
        """How a batch stands after its checks, in words."""
        failed = ", ".join(one.name for one in self.failures)
        return f"quarantined: {failed}" if failed else "usable"

    @property
    def outcome(self) -> str:
        """The outcome in words: "passed", "passed, 2 warnings" or "quarantined: NAME, ..."."""
        if self.failures:
            return self.state
        count = len(self.warnings)
        return f"passed, {count} warning{'s' * (count > 1)}" if count else "passed"

    @property
    def failures(self) -> tuple[ExpectationResult, ...]:
        """The blocking checks that failed."""
        return tuple(one for one in self.results if one.level == "failed")

    @property
    def warnings(self) -> tuple[ExpectationResult, ...]:
        """The expectations that were not met, but block nothing."""
        return tuple(one for one in self.results if one.level == "warning")

    @property
    def level(self) -> Literal["passed", "warning", "failed"]:
        """The outcome in one word."""
        return "failed" if self.failures else "warning" if self.warnings else "passed"


def _result(stored: Mapping[str, Any]) -> ExpectationResult:
    config, result = stored["expectation_config"], stored["result"]
    return ExpectationResult(
        name=config["meta"]["name"],
        notes=config["notes"],
        severity=config["severity"],
        success=stored["success"],
        expected=_expected(config["type"], config["kwargs"]),
        observed=_observed(config["kwargs"], result, stored["exception_info"]),
        examples=result.get("partial_unexpected_index_list") or (),
        unexpected_count=result.get("unexpected_count", 0),
        problem="" if stored["success"] else problem_of(stored),
        found="" if stored["success"] else found_in_words(stored),
    )


def _expected(type_: str, arguments: Mapping[str, Any]) -> str:
    """Return an expectation as words that lead to its documentation."""
    words = type_.removeprefix("expect_").replace("_", " ")
    shown = {name: value for name, value in arguments.items() if name not in _UNSHOWN}
    given = ", ".join(f"{name.replace('_', ' ')} {value_in_words(value)}" for name, value in shown.items())
    return f"{words} ({given})" if given else words


_UNSHOWN = {"batch_id", "condition_parser", "ignore_row_if"}


def _observed(
    arguments: Mapping[str, Any], result: Mapping[str, Any], exception_info: Mapping[str, Any]
) -> str:
    if errors := error_messages(exception_info):
        return f"could not be validated: {'; '.join(errors)}"
    if missing := result.get("partial_missing_list"):
        return f"missing: {value_in_words(missing)}"
    if "unexpected_count" not in result:
        observed = result.get("observed_value")
        return "as expected" if observed is None else value_in_words(observed) or "nothing"
    unexpected, rows = result["unexpected_count"], result.get("element_count", 0)
    share = f" ({100 * unexpected / rows:.3g} %)" if unexpected and rows else ""
    return f"{unexpected:,} of {rows:,} rows unexpected{share}{_such_as(arguments, result)}"


def _such_as(arguments: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return what names the unexpected rows, or their values where the rows are images."""
    rows = [next(iter(row.items()), ("", None)) for row in result.get("partial_unexpected_index_list") or ()]
    names = [value for column, value in rows if column not in IMAGE_COLUMNS]
    if not names and "column" in arguments:
        names = [value for value in result.get("partial_unexpected_list") or () if value is not None]
    listed = ", ".join(dict.fromkeys(shorten(value_in_words(name), 60, placeholder="...") for name in names))
    return f": {listed}" if listed else ""


def save(result: ValidationResult, report_html: str, folder: AnyPath) -> None:
    """Replace what is in `folder` by validation results, their report and the hashes: all or nothing."""
    values = {name: value for name, value in vars(result).items() if name in _STORED}
    with replacing_folder(folder) as part:
        (part / RESULT_FILE).write_bytes(_json(values))
        (part / REPORT_FILE).write_text(report_html, encoding="utf-8", errors="backslashreplace")
        if result.runs:
            (part / RUNS_FILE).write_bytes(_json(result.runs))
        hashes = {file.name: _sha256(file.read_bytes()) for file in sorted(part.iterdir())}
        (part / MANIFEST).write_text(json_text({"files": hashes}))


_STORED = ("subject", "rows", "suites", "images")


def _json(values: Any) -> bytes:
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    return text.encode("utf-8", errors="backslashreplace")


def load_runs(folder: AnyPath | None) -> Runs:
    """Read the runs of the validation results in a folder; none where there are none that can be used."""
    if folder is None:
        return {}
    try:
        content = (folder / RUNS_FILE).read_bytes()
        found: Runs = json.loads(content) if _recorded_hashes(folder)[RUNS_FILE] == _sha256(content) else {}
    except (OSError, ValueError, KeyError):
        return {}
    return found


def load(folder: AnyPath) -> ValidationResult:
    """Read the validation results that `save` wrote into `folder`.

    Raises:
        ValidationResultError: there are none, they cannot be read, or they are not what was stored.
    """
    earlier = is_of_earlier_version(folder)
    path = folder / (_EARLIER_FILE if earlier else RESULT_FILE)
    try:
        content = contents(regular(path))
        if not earlier:
            _compare_with_recorded_hash(content, folder)
        values = json.loads(content.decode("utf-8"))
        found = _earlier(values) if earlier else ValidationResult(**values)
        len(found.results)  # what cannot be understood is noticed here
        check_subject(found, folder)
    except ValidationResultError:
        raise
    except FileNotFoundError as error:
        raise _unusable(path, "missing") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise_if_passing(error)
        raise _unusable(path, str(error)) from error
    return found


def check_subject(found: ValidationResult, folder: AnyPath) -> None:
    """Raise an error if the results of one table lie in the folder that is kept for those of another.

    Raises:
        ValueError: they do.
    """
    _, kept, subject = str(folder).rpartition("/quality/")
    if kept and subject != found.subject:
        raise ValueError(f"it is of {found.subject}")


def load_batch(paths: Paths, batch: str) -> ValidationResult:
    """Read the validation results of the images of a batch, those of its drift among them.

    Raises:
        ValidationResultError: those of its images are missing, cannot be read, or are not what was stored.
    """
    found = load(paths.validation_results("image_table", batch))
    try:
        drift = load(paths.validation_results("drift", batch))
    except ValidationResultError:
        return found
    return replace(found, suites=[*found.suites, *drift.suites])


def _unusable(path: AnyPath, why: str) -> ValidationResultError:
    return ValidationResultError(
        f"no usable validation results: {path} ({why}); captcha-assets update validates the table again"
    )


def _compare_with_recorded_hash(content: bytes, folder: AnyPath) -> None:
    if _sha256(content) != _recorded_hashes(folder)[RESULT_FILE]:
        raise ValueError(_CHANGED)


_CHANGED = f"changed after it was stored: its SHA-256 is not the one in {MANIFEST}"


def load_with_report(folder: AnyPath) -> ValidationResult:
    """Like `load`; the report has to be there too, as it was stored.

    Raises:
        ValidationResultError: one of them is absent, damaged or changed.
    """
    found, report = load(folder), folder / REPORT_FILE
    if not report.is_file():
        raise _unusable(report, "it is no regular file" if report.exists() else "missing")
    recorded = {} if is_of_earlier_version(folder) else _recorded_hashes(folder)
    if recorded.get(REPORT_FILE) not in (None, _sha256(report.read_bytes())):
        raise _unusable(report, _CHANGED)
    return found


def is_of_earlier_version(folder: AnyPath) -> bool:
    """Whether `folder` holds what a version stored that recorded no hashes."""
    return not (folder / RESULT_FILE).exists() and (folder / _EARLIER_FILE).exists()


def _recorded_hashes(folder: AnyPath) -> Mapping[str, str]:
    try:
        return {RESULT_FILE: "", **json.loads(contents(regular(folder / MANIFEST)).decode())["files"]}
    except FileNotFoundError as error:
        raise _unusable(folder / MANIFEST, "missing") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise_if_passing(error)
        raise _unusable(folder / MANIFEST, str(error)) from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_stored(folder: AnyPath) -> bool:
    """Whether `folder` holds validation results, readable or not."""
    return (folder / RESULT_FILE).exists() or (folder / _EARLIER_FILE).exists()


def _earlier(values: Mapping[str, Any]) -> ValidationResult:
    """Return what a version before this one stored: it counts until the table is validated again."""
    results = [
        {
            "success": one["passed"],
            "expectation_config": {
                "type": one["expected"],
                "kwargs": {},
                "severity": "critical" if one["blocking"] else "warning",
                "notes": one["description"],
                "meta": {"name": one["name"]},
            },
            "result": {
                "observed_value": one["observed"],
                "partial_unexpected_index_list": one["examples"],
            },
            "exception_info": {},
        }
        for one in values["findings"]
    ]
    return ValidationResult(values["subject"], values["rows"], [{"results": results}], values["pictures"])


def has_warnings(folder: AnyPath) -> bool:
    """Whether `folder` holds validation results that warn; without readable ones nothing is known."""
    try:
        return bool(load(folder).warnings)
    except ValidationResultError:
        return False


def has_passed(folder: AnyPath) -> bool:
    """Whether `folder` holds validation results that block nothing; without readable ones it does not."""
    try:
        return load(folder).passed
    except ValidationResultError:
        return False


def quarantined(folders: Mapping[str, AnyPath]) -> dict[str, list[str]]:
    """Return the batches that failed a blocking check, with the names of the checks.

    Results that are missing or damaged name no check: their table is stale, which `status` shows.

    Args:
        folders: where the validation results of each batch lie.
    """
    found = {name: _failures(folder) for name, folder in folders.items()}
    return {name: checks for name, checks in found.items() if checks}


def _failures(folder: AnyPath) -> list[str]:
    try:
        return [one.name for one in load(folder).failures]
    except ValidationResultError:
        return []
