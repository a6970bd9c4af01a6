"""Where the data comes from: deliveries, Kaggle's published version, decisions on labels, DVC's record."""

import warnings

import dagster as dg

# Every command would repeat it; an upgrade of Dagster is tested like any other.
warnings.filterwarnings("ignore", "Function `multi_observable_source_asset`", dg.BetaWarning)
