"""Run config of a command: read, checked before a run starts, compared with the trained model."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from captcha_assets.defs.model.config import TRAINED
from captcha_assets.models import registry
from captcha_assets.models.manifest import ModelFolderError
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.models.retraining_policy import NOT_PRODUCTION, differing_settings
from captcha_assets.paths import Paths
from captcha_assets.sweeps.production_settings import plain, production_settings
from captcha_assets.training import yaml_file
from captcha_assets.training.config import SettingsError, TrainingSettings
from captcha_assets.training.yaml_file import YamlFile

#: The assets that take run config.
_CONFIGURED = ("splits", TRAINED)

_TOP = ("ops", "resources", "loggers", "execution")
_FORM = f"run config looks like `ops: {{{TRAINED}: {{config: {{epochs: 3}}}}}}`"


class RunConfigError(ValueError):
    """Run config that cannot be used; the message names the file, the line and the key."""


def load(
    path: Path, paths: Paths, definitions: dg.Definitions, selected: dg.AssetSelection
) -> dict[str, Any]:
    """Read a file of run config and check all of it, so that nothing in it is silently without effect.

    Args:
        path: the file.
        paths: where the production settings lie.
        definitions: the code location.
        selected: the assets that the command may materialize.

    Raises:
        RunConfigError: a key is unknown, or belongs to an asset that is not selected.
        SettingsError: a setting of the training cannot be used.
        YamlFileError: the file is no YAML.
    """
    file = yaml_file.read(path)
    if not file.values:
        raise RunConfigError(f"{path} is empty: {_FORM}")
    for key in file.values:
        if key not in _TOP:
            raise RunConfigError(f"{file.where(key)}: {key} is no key of run config: {_FORM}")
    ops = file.values.get("ops", {})
    if not isinstance(ops, dict) or file.values == {"ops": {}}:
        raise RunConfigError(f"{file.where('ops')}: ops names no asset: {_FORM}")
    _check_names(file, ops, definitions, selected)
    if TRAINED in ops:
        file.settings(production_settings(paths), "ops", TRAINED, "config")
    _check_the_rest(file, definitions, ops or (TRAINED,))
    return file.values


def _check_names(
    file: YamlFile, ops: Mapping[str, Any], definitions: dg.Definitions, selected: dg.AssetSelection
) -> None:
    graph = definitions.resolve_asset_graph()
    chosen = {key.to_user_string() for key in selected.materializable().resolve(graph)}
    known = {key.to_user_string() for key in graph.materializable_asset_keys}
    for name in ops:
        if name not in _CONFIGURED:
            wrong = f"{name} takes no run config" if name in known else f"there is no asset {name}"
            only = " and ".join(_CONFIGURED)
            raise RunConfigError(f"{file.where('ops', str(name))}: {wrong}, {only} alone take it")
        if name not in chosen:
            raise RunConfigError(
                f"{file.where('ops', name)}: {name} is not among the selected assets, its run config would "
                "not be used: select it, or leave the run config out"
            )


def _check_the_rest(file: YamlFile, definitions: dg.Definitions, assets: Iterable[str]) -> None:
    """Have Dagster check what the library does not know."""
    job = definitions.resolve_implicit_global_asset_job_def()
    subset = job.get_subset(asset_selection={dg.AssetKey(name) for name in assets})
    try:
        dg.validate_run_config(subset, file.values)
    except dg.DagsterInvalidConfigError as error:
        first = error.errors[0]
        keys = tuple(str(getattr(entry, "field_name", "")) for entry in first.stack.entries)
        raise RunConfigError(f"{file.where(*keys)}: {first.message.splitlines()[0]}") from error


def reasons_given(
    paths: Paths, assets: Sequence[str], reasons: list[str], run_config: Mapping[str, Any] | None
) -> list[str]:
    """Return why assets are to be materialized, given the run config that they would get.

    A training with run config is compared with what that asks for, not with production: the same again is
    up to date, anything else is a reason.

    Args:
        paths: where the model lies.
        assets: what would be materialized together.
        reasons: why, as Dagster sees it, which knows no run config.
        run_config: what the command was given.
    """
    named = ((run_config or {}).get("ops") or {}).get(TRAINED)
    if TRAINED not in assets:
        return reasons
    if named is None:
        return [_with_settings(paths, one) if one == NOT_PRODUCTION else one for one in reasons]
    if others := [reason for reason in reasons if reason != NOT_PRODUCTION]:
        return others
    differing = _differing(paths, named.get("config") or {}, "this run")
    return [f"not trained with this run config: {differing}"] if differing else []


def _differing(paths: Paths, named: Mapping[str, Any], whose: str) -> str:
    """Return in which settings the trained model differs from those configured; empty for none."""
    candidate = registry.candidate(paths.models)
    if candidate is None:
        return ""
    recorded = registry.config(paths.models, candidate.model_id).settings
    wanted = production_settings(paths).replaced(**named).model_dump(mode="json")
    return differing_settings(plain({**TrainingSettings().model_dump(), **recorded}), wanted, whose)


def _with_settings(paths: Paths, reason: str) -> str:
    """Return why a model is stale, with the settings that differ where its folder says which."""
    try:
        differing = _differing(paths, {}, "production")
    except (RegistryError, ModelFolderError, SettingsError):
        return reason  # another line says what is damaged
    return f"{reason}: {differing}" if differing else reason
