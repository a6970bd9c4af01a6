"""The champion that the service answers with, loaded and verified while the previous one still answers."""

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from captcha_assets.atomic_files import AnyPath, fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images.decode import decode
from captcha_assets.models import registry
from captcha_assets.models.manifest import MANIFEST, ModelFolderError, read_manifest
from captcha_assets.models.predictor import OnnxPredictor, spec_of_inputs
from captcha_assets.models.quantization import Precision, RefusedQuantizationError, require_passed
from captcha_assets.models.registry import Champion

#: Sends an alert: a title, and lines of details.
Alert = Callable[[str, Sequence[str]], object]

#: The command that makes an export, by its precision.
_EXPORT: dict[Precision, str] = {
    "fp32": "captcha-assets model export {model_id}",
    "int8": "captcha-assets update --select quantized_model",
}

#: Longest time between two tries to load a champion that could not be loaded, in seconds.
LONGEST_PAUSE = 30.0

_logger = logging.getLogger(__name__)


class MissingExportError(ModelFolderError):
    """A model that is not exported; the message says what to run."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded model; nothing of it changes."""

    name: str
    """Name of the data set."""
    version: str
    """Id of the model in the registry."""
    digest: str
    """SHA-256 of the `model.onnx` that answers."""
    predictor: OnnxPredictor
    spec: DatasetSpec
    """What its images look like."""
    precision: Precision = "fp32"

    @property
    def classes(self) -> tuple[str, ...]:
        """Output *i* is the class `classes[i]`."""
        return self.predictor.config.classes

    @property
    def title(self) -> str:
        """The id of the model, with its precision where that is not fp32."""
        return self.version if self.precision == "fp32" else f"{self.version} ({self.precision})"

    def decode(self, image: bytes) -> NDArray[np.uint8]:
        """Return the pixels of an image file, as `captcha-assets predict` does.

        Raises:
            Rejection: the file cannot be used.
        """
        return decode(image, self.spec).pixels


def load_model(
    exports: AnyPath, model_id: str, spec: DatasetSpec, threads: int | None, precision: Precision = "fp32"
) -> ServedModel:
    """Load an exported model from a private copy whose hashes are verified, and try it.

    Args:
        exports: folder of the exports of this precision, `<model id>/` each.
        model_id: the model.
        spec: the data set that it reads.
        threads: threads of onnxruntime.
        precision: of the exports; an int8 export must have passed the gate.

    Raises:
        MissingExportError: there is no such export.
        RefusedQuantizationError: the int8 export loses too much accuracy.
        ModelFolderError: the export is damaged.
    """
    export_again = _EXPORT[precision].format(model_id=model_id)
    if not (exports / model_id).exists():
        raise MissingExportError(f"{exports / model_id} does not exist: run {export_again}")
    with fetched(exports / model_id) as source, tempfile.TemporaryDirectory() as private:
        # What is verified is what is loaded, even if the folder is replaced meanwhile.
        folder = Path(shutil.copytree(source, Path(private, "model")))
        try:
            predictor = OnnxPredictor(
                folder, threads=threads, advice=f"export the model again: {export_again}"
            )
            manifest = read_manifest(folder)
            if precision == "int8":
                require_passed(folder)
        except ModelFolderError as error:  # a person looks for the folder that was copied
            raise ModelFolderError(str(error).replace(str(folder), str(exports / model_id))) from error
    if manifest.get("model_id") != model_id:
        raise ModelFolderError(f"{exports / model_id} holds another model: restore or export it again")
    model = ServedModel(
        name=spec.name,
        version=model_id,
        digest=manifest["files"]["model.onnx"],
        predictor=predictor,
        spec=spec_of_inputs(predictor.config, spec),
        precision=precision,
    )
    _try_out(model)
    return model


def _try_out(model: ServedModel) -> None:
    probabilities = model.predictor.predict(np.zeros((1, *model.spec.shape), np.uint8))
    if probabilities.shape != (1, len(model.classes)) or not abs(float(probabilities.sum()) - 1) < 1e-3:
        raise ModelFolderError(f"the export of {model.version} gives no probabilities: export it again")


def _content(path: AnyPath) -> bytes | None:
    try:
        return bytes(path.read_bytes())
    except FileNotFoundError:
        return None


class _Tries:
    """When to try again what failed: after 1, 2, 4 ... seconds, `LONGEST_PAUSE` at most."""

    def __init__(self) -> None:
        self._failed: object = None
        self._count, self._next = 0, 0.0

    def due(self, what: object) -> bool:
        """Whether to try `what` now: it has not failed, or long enough ago."""
        return what != self._failed or time.monotonic() >= self._next

    def failed(self, what: object) -> bool:
        """Note that `what` failed; say whether it is the first time."""
        self._count = self._count + 1 if what == self._failed and self._count else 1
        self._failed = what
        self._next = time.monotonic() + min(2.0 ** (self._count - 1), LONGEST_PAUSE)
        return self._count == 1

    def succeeded(self) -> None:
        """Note that nothing fails now."""
        self._failed, self._count = None, 0


class ChampionReloader:
    """Keeps `current` the champion of the registry.

    A champion that cannot be loaded is reported once and tried again; the previous model keeps answering.
    Where int8 is wanted and the champion has no int8 export that may answer, its fp32 export answers.

    Args:
        models: folder or address of the registry.
        exports: folder or address of the exports, `<model id>/` each.
        spec: the data set.
        alert: sends an alert.
        quantized: folder or address of the int8 exports; None to answer with fp32.
        threads: threads of onnxruntime.
        interval: seconds between two reads of the registry.
        say: is given one line each time that another model answers.

    Attributes:
        current: the model that answers; None where there is none.
        problem: why the champion is not the model that answers; None where it is.
        precision_problem: why the champion does not answer with int8; None where it does, or is not to.
    """

    def __init__(
        self,
        models: AnyPath,
        exports: AnyPath,
        spec: DatasetSpec,
        alert: Alert,
        *,
        quantized: AnyPath | None = None,
        threads: int | None = None,
        interval: float = 1.0,
        say: Callable[[str], object] = _logger.info,
    ) -> None:
        self.current: ServedModel | None = None
        self.problem: str | None = "the champion is being loaded"
        self.precision_problem: str | None = None
        self._models, self._exports, self._quantized, self._spec = models, exports, quantized, spec
        self._alert, self._threads, self._interval = alert, threads, interval
        self._say = say
        self._tries, self._int8_tries = _Tries(), _Tries()
        self._int8_manifest: bytes | None = None

    @property
    def name(self) -> str:
        """Name of the model, whichever version answers: that of the data set."""
        return self._spec.name

    @property
    def spec(self) -> DatasetSpec:
        """What the images of the model look like; those of the data set while no model answers."""
        return self.current.spec if self.current else replace(self._spec, formats=("png", "jpeg"))

    async def watch(self) -> None:
        """Read the registry every `interval` seconds, until cancelled."""
        while True:
            # Whatever a store or a model raises, the service keeps answering and reads again.
            look = asyncio.ensure_future(asyncio.to_thread(self.look))
            await asyncio.wait({look})
            if error := look.exception():
                await asyncio.to_thread(self._report, None, error)
            await asyncio.sleep(self._interval)

    def look(self) -> None:
        """Read the registry once, and load the champion if it is another one."""
        champion = registry.champion(self._models)
        if champion is None:
            self.problem = "there is no champion yet; train one with: captcha-assets update"
        elif self._answers_with_int8(champion) or self._answers(champion, "fp32"):
            self._is_champion()
        elif self._tries.due(champion):
            self._load(champion)

    def _answers(self, champion: Champion, precision: Precision) -> bool:
        current = self.current
        return current is not None and (current.version, current.precision) == (champion.model_id, precision)

    def _is_champion(self) -> None:
        self.problem = None
        self._tries.succeeded()

    def _load(self, champion: Champion) -> None:
        try:
            model = load_model(self._exports, champion.model_id, self._spec, self._threads)
        except (ModelFolderError, OSError) as error:
            self._report(champion, error)
            return
        self._answer_with(model)
        self._is_champion()

    def _answer_with(self, model: ServedModel) -> None:
        before, self.current = self.current, model
        instead = f", instead of {before.title}" if before else ""
        self._say(f"{model.title} answers now{instead}")

    def _answers_with_int8(self, champion: Champion) -> bool:
        """Load the champion's int8 export if it is wanted and not the one that answers; say if it answers."""
        if self._quantized is None:
            return False
        manifest = _content(self._quantized / champion.model_id / MANIFEST)
        # One that is lost after it was loaded changes nothing; one that was made again may be refused now.
        if self._answers(champion, "int8") and manifest in (None, self._int8_manifest):
            return True
        if not self._int8_tries.due((champion, manifest)):
            return False
        try:
            model = load_model(self._quantized, champion.model_id, self._spec, self._threads, "int8")
        except (ModelFolderError, RefusedQuantizationError, OSError) as error:
            self._report_precision(champion, manifest, error)
            return False
        self._int8_manifest, self.precision_problem = manifest, None
        self._int8_tries.succeeded()
        self._answer_with(model)
        return True

    def _report(self, champion: Champion | None, error: BaseException) -> None:
        """Report once what is wrong, and set when to try again. The answers of the service name no path."""
        first = self._tries.failed(champion)
        what = f"the champion {champion.model_id} cannot be loaded" if champion else "no champion can be read"
        goes_on = f"{self.current.version} keeps answering" if self.current else "the service answers 503"
        self.problem = f"{what}; {goes_on}; the log of the service and alerts.jsonl say why"
        if first:
            _logger.error("%s: %s; %s", what, error, goes_on)
            self._alert(f"{what}; {goes_on}", [str(error) or type(error).__name__])

    def _report_precision(self, champion: Champion, manifest: bytes | None, error: Exception) -> None:
        """Say once why the champion does not answer with int8; one that is damaged is an alert too."""
        what = f"the champion {champion.model_id} answers with fp32, not int8"
        damaged = not isinstance(error, MissingExportError | RefusedQuantizationError)
        if isinstance(error, MissingExportError):
            why = f"it is not quantized yet: {_EXPORT['int8']}"
        else:
            why = "the log of the service and alerts.jsonl say why" if damaged else str(error)
        self.precision_problem = f"{what}; {why}"
        if self._int8_tries.failed((champion, manifest)):
            _logger.warning("%s: %s", what, error)
            if damaged:
                self._alert(what, [str(error) or type(error).__name__])
