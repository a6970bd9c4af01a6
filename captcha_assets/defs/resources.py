"""The resources of assets: plain objects of the library, created when a run starts."""

import dagster as dg

from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.compute import Compute, LocalCompute
from captcha_assets.defs.ray_compute import RayCompute
from captcha_assets.settings import Settings, load_settings


def compute_of(settings: Settings) -> Compute:
    """Return the compute resource that the settings name."""
    if settings.compute == "local":
        return LocalCompute()
    return RayCompute(
        settings.compute, settings.staging_store, settings.compute_num_cpus, settings.compute_num_gpus
    )


def settings_for(spec: DatasetSpec) -> dg.ResourceDefinition:
    """Return a resource that reads the settings when a run starts; loading the definitions needs none."""

    @dg.resource(description="Where things are kept, read from the CAPTCHA_* variables.")
    def settings(_context: dg.InitResourceContext) -> Settings:
        return load_settings().with_kaggle_dataset(spec.kaggle_dataset)

    return settings


@dg.resource(required_resource_keys={"settings"}, description="Where trainings run: CAPTCHA_COMPUTE.")
def compute(context: dg.InitResourceContext) -> Compute:
    """Return the compute resource when a run starts."""
    return compute_of(context.resources.settings)


@dg.definitions
def resources() -> dg.Definitions:
    """Resources of every run, and one process per run: steps are short, and training has its own."""
    return dg.Definitions(
        resources={"compute": compute},
        executor=dg.in_process_executor,
    )
