"""The resources of assets: plain objects of the library, created when a run starts."""

import dagster as dg

from captcha_assets import dataset_record
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.compute.kubernetes_cluster import KubernetesCluster
from captcha_assets.defs.compute.local_compute import Compute, LocalCompute
from captcha_assets.defs.compute.ray_cluster import RayCluster
from captcha_assets.defs.compute.staged_compute import Cluster, Resources, StagedCompute
from captcha_assets.defs.compute.vertex_cluster import VertexCluster
from captcha_assets.settings import Settings, load_settings


def compute_of(settings: Settings) -> Compute:
    """Return the compute resource that the settings name."""
    cluster = cluster_of(settings)
    return StagedCompute(cluster, settings.staging_store) if cluster else LocalCompute()


def cluster_of(settings: Settings) -> Cluster | None:
    """Return the cluster that trains; None where trainings run on this machine."""
    if settings.compute == "local":
        return None
    kind, _, place = settings.compute.partition("://")
    if kind not in {"k8s", "vertex"}:
        return RayCluster(settings.compute, settings.compute_num_cpus, settings.compute_num_gpus)
    resources = Resources(
        str(settings.compute_image),  # the settings require it
        settings.compute_num_cpus,
        settings.compute_num_gpus,
        settings.compute_service_account,
    )
    if kind == "k8s":
        return KubernetesCluster(place, resources, settings.compute_secret)
    project, region = place.split("/")
    return VertexCluster(project, region, resources)


def settings_for(spec: DatasetSpec) -> dg.ResourceDefinition:
    """Return a resource that reads the settings when a run starts; loading the definitions needs none.

    A run in a home that holds another data set fails before its first step.
    """

    @dg.resource(description="Where things are kept, read from the CAPTCHA_* variables.")
    def settings(_context: dg.InitResourceContext) -> Settings:
        found = load_settings()
        dataset_record.hold(found.paths, spec)
        return found.with_kaggle_dataset(spec.kaggle_dataset)

    return settings


@dg.resource(required_resource_keys={"settings"}, description="Where trainings run: CAPTCHA_COMPUTE.")
def compute(context: dg.InitResourceContext) -> Compute:
    """Return the compute resource when a run starts."""
    return compute_of(context.resources.settings)


def of_every_run() -> dg.Definitions:
    """Resources of every run, and one process per run: steps are short, and training has its own."""
    return dg.Definitions(
        resources={"compute": compute},
        executor=dg.in_process_executor,
    )
