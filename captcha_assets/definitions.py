"""The code location: loads `defs/`, nothing else."""

from pathlib import Path

import dagster as dg

from captcha_assets.defs.automation import with_policies


@dg.definitions
def defs() -> dg.Definitions:
    """Load every asset, check, sensor and resource, each asset under its automation policy."""
    return with_policies(dg.load_from_defs_folder(path_within_project=Path(__file__).parent))
