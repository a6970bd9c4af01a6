"""The plain verdict on a table: what was expected, what was found, examples. Light to import."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from captcha_assets.storage import AnyPath, replacing_folder

#: Names of the two files of a saved verdict.
VERDICT_FILE = "verdict.json"
REPORT_FILE = "report.html"

#: At most this many examples are kept of each finding.
MAX_EXAMPLES = 10

#: The values of an example that name an image, each with the one that names its delivery.
IMAGE_COLUMNS = {"image_id": "batch", "near_duplicate": "batch_of_near_duplicate"}


class VerdictError(ValueError):
    """A saved verdict that is absent or cannot be read."""


class QuarantinedError(RuntimeError):
    """A batch that failed a blocking check; the message says which, and what to do."""

    def __init__(self, batch: str, verdict: "Verdict") -> None:
        failed = "; ".join(
            f"{finding.name}: expected {finding.expected}; found {finding.observed}"
            for finding in verdict.failures
        )
        super().__init__(
            f"batch {batch} is quarantined ({failed}): the other batches go on without it; remove it "
            f"(captcha-assets batch remove {batch}) and add it again when it is corrected"
        )


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: the check's name, one of `thresholds.CHECKS`.
        description: what the check is for, whatever the table.
        expected: what had to be so, with the thresholds.
        observed: what is so.
        passed: whether it is as expected.
        blocking: whether nothing may go on when it is not.
        examples: up to ten rows that are not as expected: what identifies each, and its value.
        total_unexpected: how many such rows there are.
    """

    name: str
    description: str
    expected: str
    observed: str
    passed: bool
    blocking: bool
    examples: list[dict[str, Any]] = field(default_factory=list)
    total_unexpected: int = 0

    @property
    def level(self) -> Literal["passed", "warning", "failed"]:
        """The outcome in one word: only a blocking check can fail."""
        if self.passed:
            return "passed"
        return "failed" if self.blocking else "warning"


@dataclass(frozen=True)
class Verdict:
    """All findings on one table.

    Attributes:
        subject: what was judged, such as `image_table/first`.
        findings: one for each check, in the order of `thresholds.CHECKS`.
        rows: number of rows of the table.
        pictures: the images among the examples, where they could be had: image id to base64 PNG.
    """

    subject: str
    findings: tuple[Finding, ...]
    rows: int
    pictures: dict[str, str] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether no blocking check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Finding, ...]:
        """The blocking checks that failed."""
        return tuple(finding for finding in self.findings if finding.level == "failed")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The checks that did not pass, but stop nothing."""
        return tuple(finding for finding in self.findings if finding.level == "warning")

    @property
    def level(self) -> Literal["passed", "warning", "failed"]:
        """The outcome in one word."""
        return "failed" if self.failures else "warning" if self.warnings else "passed"

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as values that JSON knows."""
        return {**asdict(self), "passed": self.passed}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Verdict":
        """Return the verdict that `to_dict` made `values` of.

        Raises:
            VerdictError: `values` is not a verdict.
        """
        try:
            findings = tuple(Finding(**finding) for finding in values["findings"])
            return cls(values["subject"], findings, values["rows"], dict(values["pictures"]))
        except (KeyError, TypeError, ValueError) as error:
            raise VerdictError(f"not a verdict ({error}): judge the table again") from error


def as_one(name: str, findings: Sequence[Finding]) -> Finding:
    """Return findings as a single one, which passed where all of them did; it names those that did not."""
    unlike = [finding for finding in findings if not finding.passed]
    observed = "; ".join(f"{one.name.replace('_', ' ')}: {one.observed}" for one in unlike)
    return Finding(
        name,
        f"All of: {', '.join(finding.name.replace('_', ' ') for finding in findings)}.",
        "all as expected",
        observed or "all as expected",
        passed=not unlike,
        blocking=any(finding.blocking for finding in unlike),
    )


def save(verdict: Verdict, report_html: str, folder: AnyPath) -> None:
    """Write the verdict and its report into `folder`, both or neither; what was there is replaced."""
    text = json.dumps(verdict.to_dict(), indent=2, ensure_ascii=False) + "\n"
    with replacing_folder(folder) as part:
        (part / VERDICT_FILE).write_text(text, encoding="utf-8", errors="backslashreplace")
        (part / REPORT_FILE).write_text(report_html, encoding="utf-8", errors="backslashreplace")


def load(folder: AnyPath) -> Verdict:
    """Read the verdict that `save` wrote into `folder`.

    Raises:
        VerdictError: there is none, or it cannot be read.
    """
    try:
        values = json.loads((folder / VERDICT_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VerdictError(f"no verdict in {folder} ({error}): judge the table first") from error
    return Verdict.from_dict(values)


def has_warnings(folder: AnyPath) -> bool:
    """Whether `folder` holds validation results that warn; without readable ones nothing is known."""
    try:
        return bool(load(folder).warnings)
    except VerdictError:
        return False


def has_passed(folder: AnyPath) -> bool:
    """Whether `folder` holds a verdict that stops nothing; without a readable verdict it does not."""
    try:
        return load(folder).passed
    except VerdictError:
        return False


def quarantined(folders: Mapping[str, AnyPath]) -> dict[str, list[str]]:
    """Return the batches that failed a blocking check, with the names of the checks.

    Results that are missing or damaged name no check: their table is stale, and `status` says so.

    Args:
        folders: where the verdict on each batch lies.
    """
    found = {name: _failures(folder) for name, folder in folders.items()}
    return {name: checks for name, checks in found.items() if checks}


def _failures(folder: AnyPath) -> list[str]:
    try:
        return [finding.name for finding in load(folder).failures]
    except VerdictError:
        return []
