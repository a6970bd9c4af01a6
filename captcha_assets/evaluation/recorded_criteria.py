"""The criteria of a promotion as they were recorded when the candidate was compared."""

from dataclasses import dataclass

from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.models import promotion_records
from captcha_assets.models.promotion_records import Decision
from captcha_assets.models.registry import Champion
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.paths import Paths

#: Why the criteria of a first model that compare it with a champion are absent.
FIRST_MODEL = "no champion to compare with"


@dataclass(frozen=True)
class RecordedCriteria:
    """What is known of the criteria of a change of the champion.

    Attributes:
        criteria: those that were evaluated.
        without: why the others were not, in one line.
    """

    criteria: tuple[Criterion, ...]
    without: str


def criteria_of(decision: Decision) -> tuple[Criterion, ...]:
    """Return the criteria that a decision rests on.

    Raises:
        RegistryError: the record is damaged.
    """
    try:
        return tuple(Criterion(**entry) for entry in decision.criteria)
    except TypeError as error:
        raise RegistryError(
            f"the recorded decision on {decision.candidate} is damaged ({error}): restore "
            "models/decisions from a backup"
        ) from error


def criteria_of_change(paths: Paths, champion: Champion) -> RecordedCriteria:
    """Return the criteria of a promotion, as the model was compared with the champion that it replaces.

    There are none for a rollback, nor where the model was never compared with that champion.
    """
    not_compared = f"not compared: {champion.action} by {champion.by}, {champion.reason}"
    try:
        decision = promotion_records.last(paths.models, champion.model_id)
        if champion.action != "promote" or decision is None or decision.champion != champion.instead_of:
            return RecordedCriteria((), not_compared)
        return RecordedCriteria(criteria_of(decision), FIRST_MODEL)
    except RegistryError as error:
        return RecordedCriteria((), f"not known: {error}")
