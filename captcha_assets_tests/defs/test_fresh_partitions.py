"""What is known to be fresh from a few queries, Dagster's resolver calls fresh too."""

from collections.abc import Iterator

import dagster as dg
import pytest

from captcha_assets.defs.dagster_internals import (
    DATA_VERSION_TAG,
    NO_VALUE,
    StaleStatus,
    stale_status_resolver,
)
from captcha_assets.defs.fresh_partitions import fresh_partitions

BATCHES = dg.DynamicPartitionsDefinition(name="batch")
NAMES = [f"batch-{number}" for number in range(4)]
TABLE = dg.AssetKey("table")


def graph_of(code_version: str = "1", *, with_source: bool = True) -> dg.Definitions:
    """The graph of an archive and a table of each batch."""

    @dg.asset(partitions_def=BATCHES, code_version="1")
    def archive(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(f"archive {context.partition_key}"))

    @dg.asset(partitions_def=BATCHES, code_version=code_version, deps=[archive] if with_source else [])
    def table(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        return dg.MaterializeResult(data_version=dg.DataVersion(f"table {context.partition_key}"))

    @dg.asset(deps=[table])
    def index() -> None:
        pass

    return dg.Definitions(assets=[archive, table, index])


DEFINITIONS = graph_of()


def materialize(instance: dg.DagsterInstance, asset: str, *batches: str) -> None:
    job = DEFINITIONS.resolve_implicit_global_asset_job_def()
    for batch in batches:
        subset = job.get_subset(asset_selection={dg.AssetKey(asset)})
        assert subset.execute_in_process(instance=instance, partition_key=batch).success


def report(instance: dg.DagsterInstance, asset: str, batch: str, version: str) -> None:
    instance.report_runless_asset_event(
        dg.AssetMaterialization(asset, partition=batch, tags={DATA_VERSION_TAG: version})
    )


def fresh(instance: dg.DagsterInstance, definitions: dg.Definitions = DEFINITIONS) -> set[str]:
    """Return what is known to be fresh, after a comparison with what Dagster calls so."""
    graph = definitions.resolve_asset_graph()
    resolver = stale_status_resolver(instance, graph)
    by_dagster = {name for name in NAMES if resolver.get_status(TABLE, name) == StaleStatus.FRESH}
    found = fresh_partitions(instance, graph, TABLE)
    assert found <= by_dagster
    return found


@pytest.fixture
def made() -> Iterator[dg.DagsterInstance]:
    """An instance in which both assets of three of four batches are materialized."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("batch", NAMES)
        materialize(instance, "archive", *NAMES)
        materialize(instance, "table", *NAMES[:3])
        yield instance


def test_what_was_made_from_its_present_input_is_fresh(made: dg.DagsterInstance) -> None:
    assert fresh(made) == set(NAMES[:3])


def test_a_changed_input_is_noticed(made: dg.DagsterInstance) -> None:
    report(made, "archive", NAMES[0], "another")
    assert fresh(made) == set(NAMES[1:3])


def test_what_is_lost_is_not_fresh(made: dg.DagsterInstance) -> None:
    report(made, "table", NAMES[1], NO_VALUE)
    assert fresh(made) == {NAMES[0], NAMES[2]}


def test_where_an_event_names_no_input_the_resolver_is_asked(made: dg.DagsterInstance) -> None:
    report(made, "table", NAMES[2], "of another hand")
    assert fresh(made) == set(NAMES[:2])


def test_another_code_version_or_input_makes_all_stale(made: dg.DagsterInstance) -> None:
    assert fresh(made, graph_of("2")) == set()
    assert fresh(made, graph_of(with_source=False)) == set()


def test_nothing_is_known_of_an_asset_over_all_batches(made: dg.DagsterInstance) -> None:
    graph = DEFINITIONS.resolve_asset_graph()
    assert fresh_partitions(made, graph, dg.AssetKey("index")) == set()
