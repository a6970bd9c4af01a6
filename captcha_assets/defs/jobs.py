"""The job that materializes everything of a batch, in one run."""

import dagster as dg

from captcha_assets.defs.automation import BY_DAY, ONLY_WHEN_ASKED

everything = dg.define_asset_job(
    "everything",
    selection=dg.AssetSelection.all() - BY_DAY - dg.AssetSelection.assets(*ONLY_WHEN_ASKED),
    description="One batch from its archive to the champion: every asset but the days of the service, and "
    "the sweeps and the quantized model, which are only materialized when selected by name. Needs a batch: "
    "captcha-assets batch add NAME SOURCE.",
)
