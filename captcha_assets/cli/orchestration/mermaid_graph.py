"""The asset graph of the definitions as a Mermaid flowchart, which GitHub and GitLab draw."""

from collections.abc import Iterator

import dagster as dg

from captcha_assets.defs.dagster_internals import AssetNode

#: Fill and edge of the boxes of each group, in the order of the groups.
_COLOURS = {
    "source": "fill:#fdf3dc,stroke:#c98a1b",
    "images": "fill:#e3f1e4,stroke:#3f8f4b",
    "dataset": "fill:#e1eefa,stroke:#2f73b5",
    "model": "fill:#f0e6f8,stroke:#8050a8",
    "sweep": "fill:#fbe6e4,stroke:#c0483c",
    "serving": "fill:#e2f3f3,stroke:#2b8a8a",
}


def mermaid(definitions: dg.Definitions) -> str:
    """Return the flowchart, inputs above what is materialized from them.

    The same graph gives the same text.
    """
    graph = definitions.resolve_asset_graph()
    nodes = [graph.get(key) for key in sorted(graph.get_all_asset_keys())]
    observed = [_name(node) for node in nodes if not node.is_materializable]
    lines = [line for node in nodes for line in (_box(node), *_edges(node))]
    lines += [f"classDef {group} {colours},color:#1f2933" for group, colours in _COLOURS.items()]
    lines += ["classDef observed stroke-dasharray:5", f"class {','.join(observed)} observed"]
    return "\n  ".join(["flowchart TB", *lines]) + "\n"


def _name(node: AssetNode) -> str:
    return node.key.to_user_string()


def _box(node: AssetNode) -> str:
    facts = [", ".join(sorted(node.kinds)).replace("_", " ")] if node.kinds else []
    if node.is_partitioned:
        facts.append(f"one per {getattr(node.partitions_def, 'name', None) or 'partition'}")
    if not node.is_materializable:
        facts.append("observed")
    return f'{_name(node)}["<b>{_name(node)}</b><br>{"; ".join(facts)}"]:::{node.group_name}'


def _edges(node: AssetNode) -> Iterator[str]:
    for parent in sorted(node.parent_keys):
        yield f"{parent.to_user_string()} --> {_name(node)}"
