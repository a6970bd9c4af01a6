"""The asset graph of the definitions as plain data, for a picture of it."""

import dagster as dg

from captcha_assets.graph_picture import Asset

#: The groups, from where the data comes from to what is made of it.
GROUPS = ("source", "images", "dataset", "model", "sweep", "serving")


def assets_of(definitions: dg.Definitions) -> list[Asset]:
    """Return every asset of the definitions, in order of their names."""
    graph = definitions.resolve_asset_graph()
    nodes = [graph.get(key) for key in sorted(graph.get_all_asset_keys())]
    return [
        Asset(
            name=node.key.to_user_string(),
            group=node.group_name or "",
            kinds=tuple(sorted(node.kinds)),
            parts=getattr(node.partitions_def, "name", None) or ("parts" if node.is_partitioned else None),
            made=node.is_materializable,
            inputs=tuple(sorted(parent.to_user_string() for parent in node.parent_keys)),
        )
        for node in nodes
    ]


def groups_of(assets: list[Asset]) -> list[str]:
    """Return the groups that occur, the known ones first and in their order."""
    found = {asset.group for asset in assets}
    return [name for name in GROUPS if name in found] + sorted(found - set(GROUPS))
