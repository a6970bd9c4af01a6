"""The assets of a data set under a prefix: the same functions with other names and settings of their own."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg

from captcha_assets import dataset_record
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.automation import policy_of
from captcha_assets.defs.dagster_internals import body_of
from captcha_assets.defs.names import Names
from captcha_assets.defs.partitions import in_names
from captcha_assets.defs.resources import compute_of
from captcha_assets.settings import Settings

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)

_LINEAGE = "dagster/column_lineage"


@dataclass(frozen=True)
class PrefixedDataset:
    """A data set beside others in one code location.

    Attributes:
        names: of its assets, partition sets, jobs, sensors and pools.
        dataset: what its images look like and how they are labelled.
        settings: read when a step runs or a sensor looks, not when the definitions are loaded.
    """

    names: Names
    dataset: DatasetSpec
    settings: Callable[[], Settings]


def prefixed_asset(definition: dg.AssetsDefinition, of: PrefixedDataset) -> dg.AssetsDefinition:
    """Return an asset of a code location with one data set as an asset of this data set.

    Raises:
        ValueError: the asset takes a resource that is not known here.
    """
    specs = [_spec_in_names(spec, definition, of.names) for spec in definition.specs]
    name, run = of.names.name(definition.op.name), _run(body_of(definition), of)
    if definition.is_observable:
        observable: dg.AssetsDefinition = dg.multi_observable_source_asset(specs=specs, name=name)(run)
        return observable
    return dg.multi_asset(
        name=name,
        specs=specs,
        check_specs=[_check_in_names(check, of.names) for check in definition.check_specs],
        config_schema=getattr(definition.op.config_schema.config_type, "fields", None),
        pool=of.names.name(definition.op.pool) if definition.op.pool else None,
    )(run)


def _spec_in_names(spec: dg.AssetSpec, definition: dg.AssetsDefinition, names: Names) -> dg.AssetSpec:
    asset, partitions = spec.key.to_user_string(), in_names(spec.partitions_def, names)
    policy = policy_of(asset, partitioned=partitions is not None, names=names)
    return spec.replace_attributes(
        key=names.key(asset),
        deps=[dg.AssetDep(names.key(dep.asset_key.to_user_string())) for dep in spec.deps],
        group_name=names.name(str(spec.group_name)),
        partitions_def=partitions,
        owners=[],  # those of the project that the data set is in, which `post_processing` may name
        automation_condition=policy if definition.is_materializable else spec.automation_condition,
        metadata=_metadata_in_names(spec.metadata, names),
    )


def _check_in_names(check: dg.AssetCheckSpec, names: Names) -> dg.AssetCheckSpec:
    return dg.AssetCheckSpec(
        check.name,
        asset=names.key(check.asset_key.to_user_string()),
        description=check.description,
        blocking=check.blocking,
        metadata=check.metadata,
        partitions_def=in_names(check.partitions_def, names),
    )


def _run(
    body: Callable[..., Any], of: PrefixedDataset
) -> Callable[[dg.AssetExecutionContext], Iterator[Any]]:
    """Return a function that calls an asset's body with what belongs to this data set.

    It fails where the home holds another data set.
    """
    resources: dict[str, Callable[[], Any]] = {
        "settings": of.settings,
        "dataset": lambda: of.dataset,
        "compute": lambda: compute_of(of.settings()),
    }
    parameters = dict(inspect.signature(body).parameters)
    takes_context, config = parameters.pop("context", None), parameters.pop("config", None)
    if unknown := parameters.keys() - resources.keys():
        raise ValueError(f"{body.__name__} takes resources that are not known here: {sorted(unknown)}")

    def run(context: dg.AssetExecutionContext) -> Iterator[Any]:
        dataset_record.hold(of.settings().paths, of.dataset)
        given = {name: resources[name]() for name in parameters}
        if takes_context:
            given["context"] = context
        if config:
            given["config"] = config.annotation(**context.op_execution_context.op_config)
        made = body(**given)
        in_these_names = partial(_result_in_names, names=of.names)
        yield from map(in_these_names, made if isinstance(made, Iterator) else [made])

    return run


def _result_in_names(result: Any, names: Names) -> Any:
    """Return the result of a body as the result of the asset of this data set."""
    if isinstance(result, dg.AssetCheckResult):
        return result._replace(asset_key=_key_in_names(result.asset_key, names))
    return result._replace(
        asset_key=_key_in_names(result.asset_key, names),
        check_results=[_result_in_names(one, names) for one in result.check_results or ()],
        metadata=_metadata_in_names(result.metadata or {}, names),
    )


def _key_in_names(key: dg.AssetKey | None, names: Names) -> dg.AssetKey | None:
    return None if key is None else names.key(key.to_user_string())


def _metadata_in_names(metadata: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return metadata whose column lineage names the columns of this data set's assets."""
    found = dict(metadata)
    if lineage := found.get(_LINEAGE):
        lineage = getattr(lineage, "column_lineage", lineage)  # what Dagster has made metadata of already
        found[_LINEAGE] = dg.TableColumnLineage(
            {
                column: [
                    dg.TableColumnDep(names.key(dep.asset_key.to_user_string()), dep.column_name)
                    for dep in deps
                ]
                for column, deps in lineage.deps_by_column.items()
            }
        )
    return found
