"""The code location: `build_definitions` of a data set; `defs` of the one that `CAPTCHA_DATASET` names."""

import os
import warnings

import dagster as dg

from captcha_assets import defs as defs_package
from captcha_assets.dataset import CAPTCHA, DatasetSpec, load_dataset
from captcha_assets.defs.automation import with_policies
from captcha_assets.defs.dataset.assets import image_index, splits
from captcha_assets.defs.dataset.data_report import data_report
from captcha_assets.defs.images.assets import image_tables
from captcha_assets.defs.resources import of_every_run, settings_for
from captcha_assets.defs.serving.assets import prediction_log

# Dagster's loader of a project's folder asks for its pyproject.toml, and a package that is installed, or sent
# to a node of a cluster, lies beside none.
warnings.filterwarnings("ignore", "Function `load_definitions_from_", dg.PreviewWarning)


def build_definitions(spec: DatasetSpec = CAPTCHA) -> dg.Definitions:
    """Return every asset, check, sensor and resource of a data set, each asset under its automation policy.

    Args:
        spec: what the images look like and how they are labelled. Assets get it as the resource `dataset`; of
            some it decides the checks and the code version as well.
    """
    of_any = dg.load_definitions_from_package_module(defs_package)
    of_this = dg.Definitions(
        assets=[image_tables(spec), image_index(spec), splits(spec), data_report(spec), prediction_log(spec)],
        resources={"dataset": spec, "settings": settings_for(spec)},
    )
    return with_policies(dg.Definitions.merge(of_any, of_every_run(), of_this))


@dg.definitions
def defs() -> dg.Definitions:
    """Return the definitions of the data set that `CAPTCHA_DATASET` names; CAPTCHA characters by default."""
    return build_definitions(load_dataset(os.environ.get("CAPTCHA_DATASET") or None))
