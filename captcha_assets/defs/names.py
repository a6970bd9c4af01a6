"""The names of a data set's definitions: a prefix tells the data sets of one code location apart."""

import re
from dataclasses import dataclass

import dagster as dg

LONGEST_PREFIX = 50
#: What a prefix is: names of files and of partition sets begin with it.
PREFIX = rf"^[a-z][a-z0-9_]{{0,{LONGEST_PREFIX - 1}}}$"


@dataclass(frozen=True)
class Names:
    """How the assets, partition sets, jobs, sensors and pools of one data set are called.

    Attributes:
        prefix: up to 50 small letters, digits and underscores; None for the data set of a code location of
            its own.

    Raises:
        ValueError: the prefix cannot be used.
    """

    prefix: str | None = None

    def __post_init__(self) -> None:
        if self.prefix is not None and not re.fullmatch(PREFIX, self.prefix):
            raise ValueError(
                f"{self.prefix!r} cannot be used: begin with a small letter, and go on with small letters, "
                f"digits and underscores, {LONGEST_PREFIX} at most"
            )

    def key(self, asset: str) -> dg.AssetKey:
        """Return the key of an asset: `[prefix, asset]`."""
        return dg.AssetKey(asset if self.prefix is None else [self.prefix, asset])

    def keys(self, *assets: str) -> dg.AssetSelection:
        """Return the selection of some assets."""
        return dg.AssetSelection.assets(*map(self.key, assets))

    def name(self, name: str) -> str:
        """Return the name of what is no asset: `prefix_name`."""
        return name if self.prefix is None else f"{self.prefix}_{name}"

    def asset(self, key: dg.AssetKey) -> str | None:
        """Return the asset that has this key; None where the key is of something else."""
        asset = key.path[-1]
        return asset if self.key(asset) == key else None


#: The names of a code location with one data set.
PLAIN = Names()


def names_of(context: dg.AssetExecutionContext) -> Names:
    """Return the names of the data set whose assets are being materialized."""
    path = next(iter(context.selected_asset_keys)).path
    return Names(path[0]) if len(path) > 1 else PLAIN
