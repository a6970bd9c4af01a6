"""The test of a staged model before it is promoted: its export against the champion's, on the same images.

It asks for what the promotion rule asks for, but for a reason to change, which is the decision itself. It
changes and records nothing, so that credentials that can only read are enough.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from captcha_assets.atomic_files import fetched
from captcha_assets.confidence_intervals import Interval, wilson
from captcha_assets.dataset import DatasetSpec
from captcha_assets.evaluation import export_criteria
from captcha_assets.evaluation.above_chance import above_chance
from captcha_assets.evaluation.automatic_promotion import promotion_limits
from captcha_assets.evaluation.candidate_comparison import compare
from captcha_assets.evaluation.criterion_descriptions import Criterion
from captcha_assets.evaluation.evaluate import images_of_split, predictions_of
from captcha_assets.images.decode import decode
from captcha_assets.images.features import image_id
from captcha_assets.images.local_tables import LocalTables, local_tables
from captcha_assets.images.reader import SplitImages
from captcha_assets.images.rejection import Rejection
from captcha_assets.models import registry
from captcha_assets.models.predict_files import UnreadableFileError, read_image_file, resolve
from captcha_assets.models.predictor import OnnxPredictor, spec_of_inputs
from captcha_assets.models.servable import require_export
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings


class StagedModelError(ValueError):
    """A model, or images, that cannot be tested; the message says why."""


@dataclass(frozen=True)
class StagedModel:
    """What the test of a model found.

    Attributes:
        model_id: the model.
        champion: the id of the champion; None where there is none to compare with.
        images: on how many images they were compared.
        accuracy: the share of them that the model reads correctly.
        interval: of the accuracy, with the confidence 95 %.
        champion_accuracy: the champion's; None where there is none.
        criteria: what was asked for.
    """

    model_id: str
    champion: str | None
    images: int
    accuracy: float
    interval: Interval
    champion_accuracy: float | None
    criteria: tuple[Criterion, ...]

    @property
    def failed(self) -> tuple[Criterion, ...]:
        """The criteria that are not met."""
        return tuple(one for one in self.criteria if not one.passed)


def check_staged(
    settings: Settings,
    name: str,
    *,
    latency: float | None = None,
    images: tuple[Path, DatasetSpec] | None = None,
) -> StagedModel:
    """Compare a model of the registry with the champion, and its export with the limits.

    Args:
        settings: where the registry is, and the limits of a promotion.
        name: "candidate" or a model's id.
        latency: longest median CPU time for one image, in ms; the limit of the promotion rule where None.
        images: a folder of labelled images to compare on, and how they are labelled; the test split where
            None.

    Raises:
        ModelChoiceError, RegistryError, ModelFolderError: a model is not there, not exported, or damaged.
        StagedModelError: it is the champion, or the images cannot be used.
        MissingTableError, EvaluationError, ReaderError: there is no test split.
        ComparisonError: the two models cannot be compared, since their classes differ.
    """
    paths, model_id = settings.paths, resolve(settings.paths, name)
    serving = registry.champion(paths.models)
    champion = serving.model_id if serving else None
    if model_id == champion:
        raise StagedModelError(
            f"{model_id} is the champion, which serves already: train another model with captcha-assets "
            "update, or give the id of an earlier one (captcha-assets model list)"
        )
    _require_whole(paths, model_id)
    with _images(paths, images) as source:
        answers = _answers(paths, model_id, source)
        against = _answers(paths, champion, source) if champion else None
    right = int((answers["predicted"] == answers["label"]).sum())
    criteria = () if against is None else compare(against, answers, promotion_limits(settings)).criteria
    fastest = champion if latency is None else None
    limit = settings.promotion_latency if latency is None else latency
    return StagedModel(
        model_id=model_id,
        champion=champion,
        images=len(answers),
        accuracy=right / len(answers),
        interval=wilson(right, len(answers)),
        champion_accuracy=None if against is None else _accuracy(against),
        criteria=(
            *(one for one in criteria if one.name != "reason_to_change"),
            above_chance(answers, settings.promotion_level),
            export_criteria.parity(paths, model_id),
            export_criteria.latency(paths, model_id, fastest, limit),
        ),
    )


def _accuracy(answers: pl.DataFrame) -> float:
    return int((answers["predicted"] == answers["label"]).sum()) / len(answers)


def _require_whole(paths: Paths, model_id: str) -> None:
    with registry.verified(paths.models, model_id):
        pass
    require_export(paths, model_id)


#: The test split, or a folder of labelled images and how they are labelled.
_Source = LocalTables | tuple[Path, DatasetSpec]


@contextmanager
def _images(paths: Paths, images: tuple[Path, DatasetSpec] | None) -> Iterator[_Source]:
    if images is not None:
        yield images
        return
    with local_tables(paths) as data:
        yield data


def _answers(paths: Paths, model_id: str, source: _Source) -> pl.DataFrame:
    """Return what the export of a model reads in the images: see `Evaluation.predictions`."""
    with fetched(paths.onnx_model(model_id)) as export:
        predictor = OnnxPredictor(export)
        if isinstance(source, LocalTables):
            chosen = images_of_split(source.tables, source.splits, "test", predictor.config)
        else:
            place, spec = source
            chosen = _labelled(place, spec_of_inputs(predictor.config, spec), predictor.config.classes)
        return predictions_of(chosen, predictor.predict(chosen.pixels), "test")


def _labelled(place: Path, spec: DatasetSpec, classes: tuple[str, ...]) -> SplitImages:
    """Return the images of a folder, in order of their ids, with the labels that their paths state.

    Raises:
        StagedModelError: there are none, one cannot be used, or its label is no class of the model.
    """
    files = sorted(file for suffix in spec.suffixes for file in place.rglob(f"*{suffix}"))
    found = {}
    for file, label, pixels in _decoded(place, files, spec):
        if label not in classes:
            raise StagedModelError(f"{file}: the model knows no class {label}: it has {' '.join(classes)}")
        found[image_id(pixels)] = (pixels, classes.index(label))
    if not found:
        raise StagedModelError(f"{place} holds no labelled images: name a folder of {spec.layout}")
    ids = sorted(found)
    return SplitImages(
        np.array(ids),
        np.stack([found[one][0] for one in ids]),
        np.array([found[one][1] for one in ids]),
        np.array([place.name] * len(ids), object),
        classes,
    )


def _decoded(place: Path, files: Iterable[Path], spec: DatasetSpec) -> Iterator[tuple[Path, str, np.ndarray]]:
    for file in files:
        try:
            label = spec.label_of(file.relative_to(place).as_posix())
            yield file, label, decode(read_image_file(file), spec).pixels
        except (Rejection, UnreadableFileError, ValueError) as error:
            raise StagedModelError(f"{file} cannot be used: {error}") from error
