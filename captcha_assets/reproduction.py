"""Training a model again from what it recorded, and saying whether the result is the same.

Everything happens in a folder of its own: the batches' archives are found by their hashes, their
image tables built again, the splits are those that the model's training kept. The registry and the home's
tables are read and never changed.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from captcha_assets import interrupts
from captcha_assets.atomic_files import AnyPath, replacing
from captcha_assets.dataset import DatasetSpec
from captcha_assets.images import table_parts
from captcha_assets.images.table import build_image_table
from captcha_assets.models import folder, registry, training_provenance
from captcha_assets.models.folder import ModelConfig
from captcha_assets.models.trained_images import splits_of
from captcha_assets.models.training_provenance import Origin
from captcha_assets.paths import REPOSITORY, Paths
from captcha_assets.settings import Settings
from captcha_assets.sources import archives, batch_registration, dvc_snapshot
from captcha_assets.sources.kaggle import KaggleNotFoundError
from captcha_assets.training.config import TrainingJob, TrainingSettings

#: Is called with one line of progress at a time.
Progress = Callable[[str], None]


class ReproductionError(RuntimeError):
    """A model that cannot be trained again; the message says what is missing."""


@dataclass(frozen=True)
class Difference:
    """Something that has changed since the model was trained."""

    what: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Reproduction:
    """What became of training a model again.

    Attributes:
        model_id: the model.
        again: the id of the model that came out.
        differences: what has changed since, whether it mattered or not.
        validation_accuracy: of the model, and of the one that came out.
        largest_weight_difference: between the two; None where they have other weights altogether.
    """

    model_id: str
    again: str
    differences: tuple[Difference, ...]
    validation_accuracy: tuple[float, float]
    largest_weight_difference: float | None

    @property
    def same(self) -> bool:
        """Whether the same model came out, bit for bit."""
        return self.model_id == self.again

    def to_dict(self) -> dict[str, Any]:
        """The same as a JSON object."""
        return {**asdict(self), "same": self.same}


def reproduce(
    settings: Settings,
    spec: DatasetSpec,
    model_id: str,
    code_version: str,
    say: Progress = lambda _: None,
    *,
    worktree: bool = False,
) -> Reproduction:
    """Train a model of the registry again, and compare.

    Args:
        settings: where things are kept; only the scratch folder is written to.
        spec: what the images look like.
        model_id: the model.
        code_version: version of today's training code.
        say: called with one line of progress at a time.
        worktree: train with the code of the recorded commit instead of today's.

    Raises:
        ReproductionError: something that is needed was not recorded or cannot be had any more, or the
            training failed.
        ModelFolderError: the model is damaged.
    """
    work = settings.paths.scratch / "reproduce" / model_id
    shutil.rmtree(work, ignore_errors=True)
    try:
        with registry.verified(settings.paths.models, model_id) as model:
            config = folder.read_config(model)
            tables = [_table((settings, spec), work, origin, say) for origin in _origins(config)]
            with _code(config, work, code_version, worktree=worktree) as (code_path, version, code):
                job = _job(
                    settings.paths, work, tuple(path for path, _ in tables), (model_id, config), version
                )
                found = (*(one for _, changed in tables for one in changed), *code)
                again = _train(job, config, code_path, found, say)
            return _compared(model, again, found)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _origins(config: ModelConfig) -> list[Origin]:
    found = training_provenance.origins(config.provenance)
    if not found:
        raise ReproductionError("the model does not say which archives it was trained on: it is too old")
    return found


# --- its data


def _table(
    home: tuple[Settings, DatasetSpec], work: Path, origin: Origin, say: Progress
) -> tuple[Path, tuple[Difference, ...]]:
    """Build the image table of a batch again, and return the differences from then."""
    settings, spec = home
    archive, differences = _archive(settings, work, origin, say)
    scratch = Paths(home=work, artifacts=None, profile="local")
    table, batch = Path(str(scratch.image_table(origin.batch))), origin.batch
    table.parent.mkdir(parents=True, exist_ok=True)
    rejected = scratch.rejected_images(batch)
    version = build_image_table(archive, batch, table, rejected, spec).table_version
    say(f"batch {batch}: {'the same' if version == origin.image_table else 'not the same'} images as then")
    if version != origin.image_table:
        differences += (Difference(f"image_table of {batch}", origin.image_table, version),)
    return table, differences


def _archive(
    settings: Settings, work: Path, origin: Origin, say: Progress
) -> tuple[Path, tuple[Difference, ...]]:
    """Find the bytes that were delivered: in `data/raw`, in DVC's cache or remote, or at their source."""
    here = batch_registration.archive_path(settings.paths, origin.batch)
    digest = archives.digest_of(here).sha256 if here.exists() else None
    if digest == origin.sha256 and digest is not None:
        return _on_this_disk(here, work), ()
    changed = Difference(f"{here.name} in data/raw", origin.sha256, digest or "missing")
    missed = []
    for words, get in (("DVC", _from_dvc), ("its source", _from_source)):
        try:
            found = get(settings.paths, work, origin)
        except _UnavailableError as error:
            missed.append(str(error))
        else:
            say(f"batch {origin.batch}: brought back from {words}")
            return found, (changed,)
    if digest is None:
        raise ReproductionError(
            f"the archive of {origin.batch} (sha256 {origin.sha256}) is not in {here.parent}; "
            f"{'; '.join(missed)}. Bring it back, then try again"
        )
    say(f"batch {origin.batch}: {'; '.join(missed)}; using {here}, which is another archive")
    return _on_this_disk(here, work), (changed,)


def _on_this_disk(archive: AnyPath, work: Path) -> Path:
    """Return an archive of this machine, or a copy of one that lies on an object store."""
    if isinstance(archive, Path):
        return archive
    copy = work / "archives" / archive.name
    with replacing(copy) as part:
        archive.fs.get_file(archive.path, str(part))
    return copy


class _UnavailableError(Exception):
    """A source that does not have an archive; the message names it and the reason."""


def _from_dvc(paths: Paths, work: Path, origin: Origin) -> Path:
    target = work / "dvc" / f"{origin.batch}.zip"
    if origin.md5 is None:
        raise _UnavailableError("DVC cannot look it up: the model recorded no MD5")
    try:
        found = dvc_snapshot.restore(paths.home, origin.md5, target)
    except dvc_snapshot.SnapshotError as error:
        raise _UnavailableError(f"DVC could not look it up ({error})") from error
    if not found:
        raise _UnavailableError("DVC does not have it")
    return target


def _from_source(paths: Paths, work: Path, origin: Origin) -> Path:  # noqa: ARG001
    """Fetch the archive from its source.

    Raises:
        _UnavailableError: the source no longer has it, or could not be reached; the message says which.
    """
    fetched_home = Settings(paths=Paths(home=work / "source", artifacts=None, profile="local"))
    if origin.dataset:
        fetched_home = fetched_home.model_copy(update={"kaggle_dataset": origin.dataset})
    name = origin.dataset or origin.source
    try:
        source = batch_registration.parse_source(origin.source)
        if isinstance(source, batch_registration.KaggleSource) and origin.kaggle_version:
            source = batch_registration.KaggleSource(origin.kaggle_version)
        if isinstance(source, batch_registration.FileSource) and not source.path.exists():
            raise _UnavailableError(f"its source no longer has it ({source} does not exist)")
        batch_registration.register(fetched_home, origin.batch, source)
        found = batch_registration.fetch(fetched_home, origin.batch).path
    except KaggleNotFoundError as error:
        raise _UnavailableError(f"its source no longer has it ({error})") from error
    except (ValueError, RuntimeError, OSError) as error:
        raise _UnavailableError(f"its source {name} could not be reached ({error})") from error
    if archives.digest_of(found).sha256 != origin.sha256:
        raise _UnavailableError(f"its source no longer has it ({name} holds another archive now)")
    return _on_this_disk(found, work)


# --- its code, its settings


@contextmanager
def _code(
    config: ModelConfig, work: Path, today: str, *, worktree: bool
) -> Iterator[tuple[Path, str, tuple[Difference, ...]]]:
    """Yield where the code to train with lies, its version, and how it differs from that of then."""
    then, modified = config.provenance.get("commit"), config.provenance.get("commit_modified")
    if not worktree:
        now = training_provenance.code_commit()
        clean = now is not None and not now.modified and then is not None and not modified
        differs = []
        if not (now and then and clean and training_provenance.same_code(then, now.id)):
            today_is = _named(now.id, now.modified) if now else "no git checkout"
            differs.append(Difference("code", _named(then, modified), today_is))
        if config.code_version != today:
            differs.append(Difference("version of the training code", config.code_version, today))
        yield REPOSITORY, today, tuple(differs)
        return
    if then is None:
        raise ReproductionError(
            "the model does not say which commit it was trained with: leave --worktree out"
        )
    code_path = work / "code"
    _git("worktree", "prune")  # of what a killed command left
    _git("worktree", "add", "--detach", str(code_path), then)
    try:
        named = _named(then, modified), _named(then, None)
        differs = [Difference("code", *named)] if modified else []
        yield code_path, config.code_version, tuple(differs)
    finally:
        _git("worktree", "remove", "--force", str(code_path))


def _named(commit: str | None, modified: bool | None) -> str:
    return f"{commit[:12]}{' with changes' if modified else ''}" if commit else "not recorded"


def _git(*arguments: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ReproductionError(f"git {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")


def _job(
    paths: Paths, work: Path, tables: tuple[Path, ...], model: tuple[str, ModelConfig], version: str
) -> TrainingJob:
    model_id, config = model
    splits = splits_of(paths, model_id, config)
    if splits is None:
        raise ReproductionError(
            f"the splits that {model_id} was trained with (version {config.splits_version}) were not kept"
        )
    kept = work / "splits.parquet"
    table_parts.write_one_file(splits, kept)
    return TrainingJob(
        tables=tables,
        splits=kept,
        splits_version=config.splits_version,
        classes=config.classes,
        image_shape=config.image_shape,
        output=work / "model",
        checkpoints=work / "checkpoints",
        code_version=version,
        settings=TrainingSettings.of(config.settings),
    )


def _train(
    job: TrainingJob, config: ModelConfig, code_path: Path, found: tuple[Difference, ...], say: Progress
) -> Path:
    """Train in a process of its own, with as many threads as then, and return the model's folder."""
    path = job.output.parent / "job.json"
    # Settings that are not set are left out: the code of that commit may not know them.
    values = job.model_dump(mode="json").items()
    given = {key: one for key, one in values if one and not _is_unknown(key, code_path)}
    path.write_text(json.dumps(given))
    environment = {**os.environ, "PYTHONPATH": str(code_path)}
    if threads := config.provenance.get("threads"):
        environment["OMP_NUM_THREADS"] = str(threads)  # sums of floats depend on it
    command = [sys.executable, "-m", "captcha_assets.training", str(path)]
    with subprocess.Popen(
        command, env=environment, cwd=code_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        last = ""
        try:
            interrupts.check()
            for line in process.stdout:
                last = line.strip() or last
                say(last)
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
    if process.returncode or not job.output.is_dir():
        changed = "".join(f"; changed since: {difference}" for difference in found)
        raise ReproductionError(f"the training failed: {last.removeprefix('error: ')}{changed}")
    return job.output


def _is_unknown(field: str, code: Path) -> bool:
    """Whether code of an earlier commit knows CAPTCHA characters only, and is not given their spec."""
    if code == REPOSITORY or field not in {"classes", "image_shape"}:
        return False
    return field not in (code / "captcha_assets" / "training" / "config.py").read_text()


# --- what came out


def _compared(model: Path, again: Path, found: tuple[Difference, ...]) -> Reproduction:
    then, now = folder.read_config(model), folder.read_config(again)
    accuracies = [float(folder.read_metrics(one)["validation_accuracy"]) for one in (model, again)]
    return Reproduction(
        model_id=folder.verify(model),
        again=folder.verify(again),
        differences=(*found, *_differences(then, now)),
        validation_accuracy=(accuracies[0], accuracies[1]),
        largest_weight_difference=_weights_apart(model, again),
    )


def _differences(then: ModelConfig, now: ModelConfig) -> Iterator[Difference]:
    """What differs in the provenance of the two models; measured figures are no cause and are left out."""
    for key in ("device", "threads"):
        if then.provenance.get(key) != now.provenance.get(key):
            yield Difference(key, then.provenance.get(key), now.provenance.get(key))
    measured = {"provenance", "temperature", "mean", "std", "code_version"}
    for entry in fields(ModelConfig):
        before, after = getattr(then, entry.name), getattr(now, entry.name)
        if isinstance(before, Mapping) and entry.name not in measured:
            for key in sorted(before.keys() | after.keys()):
                if before.get(key) != after.get(key):
                    yield Difference(f"{entry.name} {key}", before.get(key), after.get(key))
        elif before != after and entry.name not in measured:
            yield Difference(entry.name, before, after)


def _weights_apart(model: Path, again: Path) -> float | None:
    from safetensors.numpy import load_file  # noqa: PLC0415

    then, now = load_file(model / folder.WEIGHTS), load_file(again / folder.WEIGHTS)
    shapes = [{name: value.shape for name, value in one.items()} for one in (then, now)]
    if shapes[0] != shapes[1]:
        return None
    apart = (np.abs(then[name].astype(np.float64) - now[name].astype(np.float64)) for name in then)
    return float(max(values.max(initial=0.0) for values in apart))
