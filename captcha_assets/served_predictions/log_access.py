"""The prediction log of a home: where it is, whether it can be read, and whether a day of it may be used."""

from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.served_predictions import daily_tables
from captcha_assets.serving.prediction_log import PredictionLogUnavailableError, PredictionLogUrlError
from captcha_assets.serving.settings import load_serving_settings


class NoPredictionsError(RuntimeError):
    """Predictions that cannot be read or may not be used; the message says why, and what to do."""


def log_address(paths: Paths) -> str | None:
    """Return the address of the prediction log; None where logging is off."""
    return load_serving_settings().prediction_log_at(paths)


def day_versions(paths: Paths) -> dict[str, str]:
    """Return the version of the rows of each day of the log.

    Raises:
        PredictionLogUnavailableError: the log cannot be read.
        PredictionLogUrlError: its address cannot be used.
    """
    address = log_address(paths)
    return daily_tables.day_versions(address) if address else {}


def problem(paths: Paths) -> str | None:
    """Return what of the prediction log cannot be read, in one line; None where all can be, or it is off."""
    try:
        day_versions(paths)
        address = log_address(paths)
        lost = daily_tables.without_day(address) if address else []
    except (PredictionLogUnavailableError, PredictionLogUrlError) as error:
        return str(error)
    if lost:
        named = ", ".join(lost[:3]) + ", ..." * (len(lost) > 3)
        return f"the prediction log holds {len(lost)} of no day, since their time cannot be read: {named}"
    return None


def is_readable(paths: Paths) -> bool:
    """Return whether the prediction log can be read, or there is none."""
    try:
        day_versions(paths)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return False
    return True


def waiting_labels(paths: Paths) -> int:
    """Return how many labelled predictions are in no batch yet; 0 where the log cannot be read."""
    try:
        address = log_address(paths)
        found = address and daily_tables.exists(address) and daily_tables.waiting_corrections(address)
    except (PredictionLogUnavailableError, PredictionLogUrlError):
        return 0
    return sum(found.values()) if found else 0


def failed_checks(paths: Paths, day: str) -> list[str]:
    """Return the blocking checks that the predictions of a day failed last."""
    folder = paths.validation_results("prediction_log", day)
    return validation_result.quarantined({day: folder}).get(day, [])


def require_valid(paths: Paths, day: str) -> None:
    """Raise an error that names the day if its predictions may not be used."""
    try:
        found = validation_result.load(paths.validation_results("prediction_log", day))
    except validation_result.ValidationResultError as error:
        raise NoPredictionsError(str(error)) from error
    if not found.passed:
        raise NoPredictionsError(
            f"the predictions of {day} failed a blocking check: see its report, or the checks of "
            "prediction_log in the UI"
        )
