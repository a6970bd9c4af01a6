"""What the code location shows of every asset, as it is recorded in `specs.json`.

    python -m captcha_assets_tests.defs.recorded_interface

writes the file.
"""

import json
from pathlib import Path
from typing import Any

import dagster as dg

from captcha_assets.definitions import defs

FILE = Path(__file__).with_name("specs.json")


def of(definitions: dg.Definitions) -> dict[str, Any]:
    """Return what is recorded of each asset."""
    graph = definitions.resolve_asset_graph()
    return {key.to_user_string(): _described(graph, key) for key in sorted(graph.get_all_asset_keys())}


def _described(graph: Any, key: dg.AssetKey) -> dict[str, Any]:
    node = graph.get(key)
    return {
        "group": node.group_name,
        "inputs": sorted(parent.to_user_string() for parent in node.parent_keys),
        "partitions": node.partitions_def.name if node.partitions_def else None,
        "kinds": sorted(node.kinds),
        "owners": sorted(node.owners),
        "code version": node.code_version,
        "automation": node.automation_condition.get_label() if node.automation_condition else None,
        "checks": {check.name: graph.get(check).blocking for check in sorted(node.check_keys)},
        "pools": sorted(node.pools or ()),
        "columns": [column.name for column in schema.columns]
        if (schema := node.metadata.get("dagster/column_schema"))
        else [],
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(of(defs()), indent=2, sort_keys=True) + "\n")
