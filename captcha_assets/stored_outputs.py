"""What lies on disk: the data version that the files of an asset have now, or why they cannot be used.

A data version is computed from the content, as it is when the asset is materialized. It is computed once for
as long as size, times and inode (on an object store: size and entity tag) of the files stay as they are.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import yaml

from captcha_assets.atomic_files import AnyPath, fetched, raise_if_passing, regular, write_json
from captcha_assets.images import table_parts
from captcha_assets.images.content_hash import content_hash
from captcha_assets.images.index import list_conflicts
from captcha_assets.images.label_decisions import conflicts_file
from captcha_assets.images.split_assignment import files_named_by
from captcha_assets.images.split_record import AssignmentRecord, read_file
from captcha_assets.images.table_parts import of_earlier_version, verified_version, version_of
from captcha_assets.models import folder, registry, training_summary
from captcha_assets.models.manifest import ModelFolderError, first_of, sha256, verify_files
from captcha_assets.paths import Paths
from captcha_assets.quality import validation_result
from captcha_assets.sources import archives, batch_registration
from captcha_assets.sweeps import trial_records

#: The data version of `champion` where no model serves.
NO_CHAMPION = "none"


@dataclass(frozen=True)
class Output:
    """What one materialization wrote.

    Attributes:
        asset: name of the asset.
        partition: its partition; None for an asset that is not partitioned.
        model: id of the model that it is or describes; None for assets that are not about one model.
    """

    asset: str
    partition: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Stored:
    """What lies on disk of an output.

    Attributes:
        version: data version of the content; None where the content cannot be used.
        problem: why it cannot be used, one line that names every file; None where it can.
        path: the file or folder whose content has this version.
    """

    version: str | None = None
    problem: str | None = None
    path: str | None = None


class Missing(Exception):  # noqa: N818 - a state of a file rather than an error of the program
    """A file or folder that is not there."""


#: What reading a damaged file raises, whatever kind of file it is.
_DAMAGED = (
    pa.ArrowException,
    pl.exceptions.PolarsError,
    yaml.YAMLError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    RuntimeError,
)
#: At most so many problems of one output are named; of the others, their number.
_NAMED = 5


class Outdated(Exception):  # noqa: N818 - a state of a file rather than an error of the program
    """A file that is whole, and not what it ought to be; the message says why."""


class _Unusable(Exception):  # noqa: N818 - a state of files rather than an error of the program
    """Files that cannot be used; the arguments say of each what is wrong, and the message names the first."""

    def __str__(self) -> str:
        return "; ".join(first_of(list(dict.fromkeys(self.args)), _NAMED))


class MissingInputError(RuntimeError):
    """An input that was never materialized; the message says what to do."""


def require_materialized(paths: Paths, path: AnyPath, asset: str) -> None:
    """Check that the input of an asset is there.

    Args:
        paths: they know the batches.
        path: the table that is its input.
        asset: the asset whose materialization writes it.

    Raises:
        MissingInputError: it is not there.
    """
    if table_parts.exists(path):
        return
    if not batch_registration.known_batches(paths):
        raise MissingInputError("there is no batch yet: captcha-assets batch add NAME SOURCE")
    raise MissingInputError(f"{asset} is not materialized yet: captcha-assets update")


class StoredVersions:
    """Looks up what is stored, and computes each version once for as long as its files do not change.

    Args:
        paths: where things are kept.
        verify: compute every version from the content, whatever size and times say.
    """

    def __init__(self, paths: Paths, *, verify: bool = False) -> None:
        self._paths = paths
        self._place = paths.scratch / "checksums.json"
        self._known = {} if verify else _read(self._place)
        self._current: dict[str, list[str]] = {}
        self._last: str | None = None

    def look(self, output: Output) -> Stored:
        """Return the data version of an output as it lies on disk, or what is wrong with it.

        Raises:
            OSError: the system or the object store has a passing problem: nothing is known of the output.
        """
        self._last = None
        try:
            version = _LOOKS[output.asset](self, self._paths, output)
            return Stored(version=version, path=self._last)
        except _PROBLEMS as error:
            raise_if_passing(error)
            return Stored(problem=_in_words(error))

    def save(self) -> None:
        """Keep the versions for the next look."""
        if self._current and self._current != self._known:
            with suppress(OSError):  # a full disk or a read-only home: only time is lost
                write_json(self._place, self._known | self._current)

    def version(self, path: AnyPath, compute: Callable[[Path], str]) -> str:
        """Return the version of the file or folder at `path`.

        Args:
            path: where it lies.
            compute: computes the version of a local copy.

        Raises:
            Missing: nothing is there.
        """
        stamp, key = _stamp(path), str(path)
        if stamp is None:
            raise Missing(key)
        known = self._known.get(key)
        if known is None or known[0] != stamp:
            with fetched(path) as local:
                try:
                    known = [stamp, compute(local)]
                except _DAMAGED as error:
                    raise_if_passing(error)
                    said = str(error).replace(str(local), key)  # a copy is gone when this is read
                    raise ValueError(said if key in said else f"{key} cannot be read ({said})") from error
        self._current[key], self._last = known, key
        return known[1]


_PROBLEMS = (Missing, Outdated, _Unusable, *_DAMAGED)


def _in_words(error: Exception) -> str:
    if isinstance(error, Missing):
        return f"missing: {error}"
    if isinstance(error, Outdated | _Unusable):
        return str(error)
    return f"damaged: {' '.join(str(error).split()) or type(error).__name__}"


def _last_of(*looks: Callable[[], str]) -> str:
    """Return the version of the last of several files, provided that all can be used.

    Raises:
        _Unusable: some cannot; the message names them all, up to a bound.
    """
    problems: list[str] = []
    version = ""
    for look in looks:
        try:
            version = look()
        except _Unusable as error:
            problems += error.args
        except _PROBLEMS as error:
            raise_if_passing(error)
            problems.append(_in_words(error))
    if problems:
        raise _Unusable(*problems)
    return version


def _read(path: Path) -> dict[str, list[str]]:
    try:
        return dict(json.loads(regular(path).read_text()))
    except (OSError, ValueError, TypeError):
        return {}  # only time is lost


def _stamp(path: AnyPath) -> str | None:
    """Return what changes whenever the files at `path` change; None where there are none."""
    entries = sorted(_local(path) if isinstance(path, Path) else _remote(path))
    return hashlib.sha256(json.dumps(entries).encode()).hexdigest() if entries else None


def _local(path: Path) -> Iterator[tuple[str, ...]]:
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            found = file.stat()
            figures = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            yield (file.relative_to(path).as_posix(), *map(str, figures))


def _remote(path: Any) -> Iterator[tuple[str, ...]]:
    for name, info in path.fs.find(path.path, detail=True).items():
        tag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime")
        yield (name, str(info.get("size")), str(tag))


def _table(path: Callable[[Paths, Output], AnyPath]) -> "_Look":
    return lambda versions, paths, output: versions.version(path(paths, output), content_hash)


def _validated_table(path: Callable[[Paths, Output], AnyPath]) -> "_Look":
    """Return the state of a table and its validation results, without which it is not used."""

    def look(versions: StoredVersions, paths: Paths, output: Output) -> str:
        return _last_of(
            lambda: _validation(versions, paths.validation_results(output.asset, output.partition)),
            lambda: versions.version(path(paths, output), content_hash),
        )

    return look


def _parts(versions: StoredVersions, table: AnyPath) -> str:
    """Return the version of a table in parts."""
    if not (table / table_parts.MANIFEST).exists():
        if (earlier := of_earlier_version(table)).exists():
            raise Outdated(f"written by an earlier version, in one file: {earlier}")
        raise Missing(table / table_parts.MANIFEST)
    return versions.version(table, verified_version)


def _validated_parts(versions: StoredVersions, paths: Paths, asset: str, table: AnyPath) -> str:
    """Return the version of a table in parts, provided that its validation results are whole."""
    return _last_of(
        lambda: _validation(versions, paths.validation_results(asset)),
        lambda: _parts(versions, table),
    )


def _image_index(versions: StoredVersions, paths: Paths, output: Output) -> str:
    """Return the version of the index, provided that the file of its label conflicts is what it says."""

    def conflicts(file: Path) -> str:
        if file.read_bytes() != conflicts_file(list_conflicts(paths.image_index)):
            raise ValueError(f"{file} holds other label conflicts than {paths.image_index}")
        return ""

    return _last_of(
        lambda: _parts(versions, paths.image_index) and versions.version(paths.label_conflicts, conflicts),
        lambda: _validated_parts(versions, paths, output.asset, paths.image_index),
    )


def _splits(versions: StoredVersions, paths: Paths, output: Output) -> str:
    """Return the version of the splits, provided that the record of their assignments is whole.

    Every file of the record is looked at: the next update reads them all.
    """
    named = files_named_by(paths.splits)
    record = AssignmentRecord.of(paths)
    found = record.files()
    if named is None and not found:
        raise Missing(f"{paths.splits}, and every split assignment: {record.how_to_restore}")

    def assignments(name: str) -> str:
        place = paths.split_assignments / name
        rows = versions.version(place, lambda path: str(len(read_file(path))))
        if named is not None and name not in named:
            raise Outdated(f"not computed from all split assignments: {place} is new")
        return rows

    return _last_of(
        *(partial(assignments, name) for name in sorted({*found, *(named or ())})),
        lambda: _validated_parts(versions, paths, output.asset, paths.splits),
    )


def _image_table(versions: StoredVersions, paths: Paths, output: Output) -> str:
    """Return the version of a batch's table, provided the results of its checks and its drift are whole."""
    drift = paths.validation_results("drift", output.partition)
    table = _validated_table(lambda paths, output: paths.image_table(str(output.partition)))
    return _last_of(
        lambda: _validation(versions, drift) if drift.exists() else "",
        lambda: table(versions, paths, output),
    )


def _validation(versions: StoredVersions, results: AnyPath) -> str:
    """Return how a table stands after its checks, provided that the results are its own and whole."""

    def level(local: Path) -> str:
        found = validation_result.load_with_report(local)
        validation_result.check_subject(found, results)  # a copy of them lies elsewhere
        if validation_result.is_of_earlier_version(local):
            raise Outdated(
                f"validated by an earlier version: no hash of the results is recorded in {results}"
            )
        return found.level

    return versions.version(results, level)


def _archive(versions: StoredVersions, paths: Paths, output: Output) -> str:
    """Return the hash of an archive, provided it is the one that is registered."""
    batch = str(output.partition)
    path = batch_registration.archive_path(paths, batch)
    stored = versions.version(path, lambda archive: archives.digest_of(archive).sha256)
    try:
        known = batch_registration.registration(paths, batch)
    except archives.BatchError as error:
        raise Outdated(str(error)) from error
    if known is not None and known.is_to_be_asked:
        raise Outdated(f"registered again: update fetches the newest version of {known.source}")
    if known is not None and known.sha256 not in (None, stored):
        raise Outdated(f"not what is registered: {path} has another SHA-256 than {paths.registration(batch)}")
    return stored


def _snapshot(versions: StoredVersions, paths: Paths, _output: Output) -> str:
    return versions.version(
        paths.data_record, lambda path: str(yaml.safe_load(path.read_text())["outs"][0]["md5"])
    )


def _candidate(versions: StoredVersions, paths: Paths, output: Output) -> str:
    """Return the id of the model folder, provided it is the candidate and what it was trained on is kept."""
    pointer = registry.candidate(paths.models)
    if pointer is None:
        raise Missing(paths.models / "candidate.json")
    if pointer.model_id != output.model:
        return pointer.model_id
    return _last_of(
        lambda: _training_splits(versions, paths, pointer.model_id),
        lambda: _training_summary(versions, paths, pointer.model_id),
        lambda: _model(versions, paths, output),
    )


def _training_splits(versions: StoredVersions, paths: Paths, model_id: str) -> str:
    """Return the version of the splits that a model was trained on, provided that its config names it."""
    path = paths.training_splits(model_id)
    found = versions.version(path, version_of)
    if found != registry.config(paths.models, model_id).splits_version:
        raise ValueError(f"{path} does not hold the splits that {model_id} was trained on")
    return found


def _training_summary(versions: StoredVersions, paths: Paths, model_id: str) -> str:
    """Return the hash of the summary of a model's training images, provided that it is whole."""

    def version_of(path: Path) -> str:
        training_summary.check(path)
        return sha256(path)

    return versions.version(paths.training_summary(model_id), version_of)


def _model(versions: StoredVersions, paths: Paths, output: Output) -> str:
    def version_of(local: Path) -> str:
        found = folder.verify(local, advice="")
        registry.check_id(found, str(output.model), paths.models)
        return found

    return versions.version(paths.models / str(output.model), version_of)


def _evaluation(versions: StoredVersions, paths: Paths, output: Output) -> str:
    path = paths.evaluation(str(output.model))

    def version_of(local: Path) -> str:
        manifest = verify_files(local, advice="")
        if manifest.get("model_id", output.model) != output.model:
            raise ModelFolderError(f"{path} holds the evaluation of {manifest['model_id']}")
        return str(manifest["version"])

    return versions.version(path, version_of)


def _export(versions: StoredVersions, paths: Paths, output: Output) -> str:
    return _version_of_export(versions, paths.onnx_model(str(output.model)), output)


def _quantized(versions: StoredVersions, paths: Paths, output: Output) -> str:
    return _version_of_export(versions, paths.quantized_model(str(output.model)), output)


def _version_of_export(versions: StoredVersions, place: AnyPath, output: Output) -> str:
    """Return the data version of an exported model, whose folder has to be its own."""

    def version_of(local: Path) -> str:
        manifest = verify_files(local, advice="")
        if manifest.get("model_id", output.model) != output.model:
            raise ModelFolderError(f"{place} holds the export of {manifest['model_id']}")
        return str(manifest["files"]["model.onnx"])[:32]

    return versions.version(place, version_of)


def _champion(versions: StoredVersions, paths: Paths, _output: Output) -> str:
    """Return the id of the model that serves, provided its folder and its export are whole."""
    champion = registry.champion(paths.models)
    if champion is None:
        return NO_CHAMPION
    output = Output("champion", model=champion.model_id)
    recorded = paths.training_splits(champion.model_id).exists()  # a version without them kept no summary
    return _last_of(
        lambda: _training_summary(versions, paths, champion.model_id) if recorded else "",
        lambda: _export(versions, paths, output),
        lambda: _model(versions, paths, output),
    )


def _trial(versions: StoredVersions, paths: Paths, output: Output) -> str:
    def version_of(_path: Path) -> str:
        record = trial_records.load(paths, str(output.partition))
        return record.version if record else ""

    return versions.version(paths.sweep_trial(str(output.partition)), version_of)


def _corrections(versions: StoredVersions, paths: Paths, output: Output) -> str:
    path = paths.corrections(str(output.partition))
    return versions.version(path, lambda archive: archives.digest_of(archive).sha256)


def _drift_report(versions: StoredVersions, paths: Paths, output: Output) -> str:
    return versions.version(
        paths.drift_report(str(output.partition)),
        lambda folder: str(verify_files(folder, advice="")["version"]),
    )


def _data_report(versions: StoredVersions, paths: Paths, _output: Output) -> str:
    return versions.version(paths.data_report, sha256)


_Look = Callable[[StoredVersions, Paths, Output], str]

_LOOKS: Mapping[str, _Look] = {
    "raw_batch": _archive,
    "data_snapshot": _snapshot,
    "image_table": _image_table,
    "rejected_images": _table(lambda paths, output: paths.rejected_images(str(output.partition))),
    "image_index": _image_index,
    "splits": _splits,
    "data_report": _data_report,
    "resnet18": _candidate,
    "evaluation": _evaluation,
    "onnx_model": _export,
    "champion": _champion,
    "quantized_model": _quantized,
    "sweep_trial": _trial,
    "prediction_log": _validated_table(lambda paths, output: paths.prediction_log(str(output.partition))),
    "corrections": _corrections,
    "drift_report": _drift_report,
    "sweep_leaderboard": _table(lambda paths, _: paths.sweep_leaderboard),
}

#: The assets whose files can be compared with what was recorded of them.
KNOWN_ASSETS = frozenset(_LOOKS)
