"""From splits to a champion. What each step does is in `training`, `evaluation` and `models`."""

import dagster as dg

from captcha_assets.atomic_files import fetched
from captcha_assets.dataset import DatasetSpec
from captcha_assets.defs.compute.local_compute import Compute
from captcha_assets.defs.model.champion_checks import (
    champion_metadata,
    champion_version,
    criteria_results,
    criteria_specs,
)
from captcha_assets.defs.model.config import TRAINING_CONFIG
from captcha_assets.defs.model.training import trained_meanwhile, trained_with
from captcha_assets.defs.names import Names, names_of
from captcha_assets.defs.presentation import figures, image, link
from captcha_assets.images import local_tables
from captcha_assets.images.split_assignment import require_images
from captcha_assets.models import folder, registry
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.servable import require_whole
from captcha_assets.paths import Paths
from captcha_assets.settings import Settings
from captcha_assets.stored_outputs import require_materialized
from captcha_assets.sweeps.production_settings import production_settings
from captcha_assets.training.config import TRAINING_CODE, TrainingJob
from captcha_assets.training_jobs import job_for


@dg.asset(
    deps=["splits", "training_settings"],
    group_name="model",
    kinds={"pytorch", "lightning", "timm"},
    code_version=TRAINING_CODE,
    config_schema=TRAINING_CONFIG,
    pool="training",
    description="The trained candidate: weights, config, classes, history, provenance.",
)
def resnet18(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    compute: dg.ResourceParam[Compute],
    dataset: dg.ResourceParam[DatasetSpec],
) -> dg.MaterializeResult:
    """Train in a process of its own; an interrupted training resumes from its checkpoint."""
    from captcha_assets.models.registration import register

    require_materialized(settings.paths, settings.paths.splits, "splits")
    require_images(settings.paths.splits)
    chosen = production_settings(settings.paths).replaced(**context.op_execution_context.op_config)
    with local_tables.local_tables(settings.paths) as data:
        job = job_for(settings.paths, dataset, data, chosen, context.run_id)
        model_id = trained_meanwhile(context, settings.paths, dataset, job)
        if model_id is None:
            compute.run(context, job)
            model_id = register(settings.paths, dataset, data, job.output)
    return _trained(settings.paths, model_id, job, names_of(context))


def _trained(paths: Paths, model_id: str, job: TrainingJob, names: Names) -> dg.MaterializeResult:
    """Return a registered model as Dagster shows it."""
    from captcha_assets.evaluation import plots

    with fetched(registry.model_folder(paths.models, model_id)) as model:
        metrics, history = folder.read_metrics(model), folder.read_history(model)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(model_id),
        tags=trained_with(job.settings, names),
        metadata={
            "model": model_id,
            "path": dg.MetadataValue.path(str(registry.model_folder(paths.models, model_id))),
            "splits": job.splits_version,
            "epochs": len(history),
            "curves": image(plots.training_curves(history), "training curves"),
            **figures(metrics),
            "settings": dg.MetadataValue.json(job.settings.model_dump()),
        },
    )


@dg.asset(
    deps=[resnet18, "splits"],
    group_name="model",
    kinds={"pytorch", "matplotlib"},
    code_version="2",
    description="The candidate's metrics on the test split: accuracy with its interval, per class, "
    "calibration, confusion, the worst mistakes.",
)
def evaluation(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Measure the candidate on today's test split."""
    from captcha_assets.evaluation.evaluate import evaluate_stored

    model_id = resolve(settings.paths, "candidate")
    with local_tables.local_tables(settings.paths) as data:
        measured = evaluate_stored(settings.paths, data, model_id)
    metrics = measured.metrics
    return dg.MaterializeResult(
        data_version=dg.DataVersion(measured.version),
        metadata={
            "model": model_id,
            "accuracy": round(metrics.accuracy, 4),
            "accuracy (95 % interval)": f"{metrics.accuracy_low:.4f} to {metrics.accuracy_high:.4f}",
            "macro F1": round(metrics.macro_f1, 4),
            "expected calibration error": round(metrics.ece, 4),
            "test images": metrics.n,
            "classes without test images": ", ".join(metrics.missing) or "none",
            "report": link(settings, measured.report),
            **{name.replace("_", " "): image(png, name) for name, png in measured.plot_images.items()},
        },
    )


@dg.asset(
    deps=[resnet18, "splits"],
    group_name="model",
    kinds={"onnx"},
    code_version="1",
    description="The candidate as ONNX, compared with the original on real images.",
    check_specs=[
        dg.AssetCheckSpec(
            "parity",
            asset="onnx_model",
            description="The export gives the same classes and probabilities as the model that was exported.",
            blocking=True,
        )
    ],
)
def onnx_model(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Export the candidate, and run both on the images of the test split."""
    from captcha_assets.evaluation.onnx_parity import export_stored

    model_id = resolve(settings.paths, "candidate")
    target, parity = settings.paths.onnx_model(model_id), export_stored(settings.paths, model_id)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(parity.version),
        check_results=[
            dg.AssetCheckResult(
                check_name="parity",
                passed=parity.passed,
                description=f"probabilities differ by at most {parity.max_abs_difference:.1e} on "
                f"{parity.images} images; the same class on {parity.agreement:.2%}",
            )
        ],
        metadata={
            "model": model_id,
            "largest difference of a probability": parity.max_abs_difference,
            "agreement": parity.agreement,
            "images compared": parity.images,
            "opset": parity.opset,
            "size": dg.MetadataValue.int(parity.bytes),
            "path": dg.MetadataValue.path(str(target)),
        },
    )


@dg.asset(
    deps=[evaluation, onnx_model],
    group_name="model",
    kinds={"registry"},
    code_version="2",
    description="Which model serves, since when, instead of which, and why.",
    check_specs=criteria_specs(),
)
def champion(
    context: dg.AssetExecutionContext,
    settings: dg.ResourceParam[Settings],
    dataset: dg.ResourceParam[DatasetSpec],
) -> dg.MaterializeResult:
    """Promote the candidate if there is no champion, or if it passes the criteria of a promotion."""
    from captcha_assets.evaluation import automatic_promotion
    from captcha_assets.models.registration import restore_summary

    with local_tables.local_tables(settings.paths) as data:
        outcome = automatic_promotion.consider_candidate(settings, data)
        if outcome.champion:
            require_whole(settings.paths, outcome.champion)
            restore_summary(settings.paths, dataset, data.tables, outcome.champion.model_id)
    context.log.info(
        f"{outcome.candidate} {'promoted' if outcome.promoted else 'not promoted'}: {outcome.reason}"
    )
    return dg.MaterializeResult(
        data_version=champion_version(outcome.champion),
        check_results=criteria_results(outcome.criteria, outcome.without),
        metadata={
            **champion_metadata(outcome.champion),
            "candidate": outcome.candidate,
            "promoted now": outcome.promoted,
            "why": outcome.reason,
        },
    )


@dg.asset(
    deps=[champion, "splits"],
    group_name="model",
    kinds={"onnx"},
    code_version="2",
    description="The champion's export as int8, measured beside the fp32 export on the test split. Only "
    "materialized when selected by name, or when CAPTCHA_SERVING_PRECISION is int8.",
    check_specs=[
        dg.AssetCheckSpec(
            "accuracy_loss",
            asset="quantized_model",
            description="The int8 export loses no more accuracy on the test split than may be lost. One "
            "that does is refused: the service goes on with fp32.",
        )
    ],
)
def quantized_model(
    context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]
) -> dg.MaterializeResult:
    """Quantize the champion's export, calibrated on images of the training split."""
    from captcha_assets.evaluation.quantization_loss import quantize_stored

    model_id = resolve(settings.paths, "champion")
    target, measured = settings.paths.quantized_model(model_id), quantize_stored(settings.paths, model_id)
    context.log.info(f"{model_id}: {measured.words}")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(measured.version),
        check_results=[
            dg.AssetCheckResult(
                check_name="accuracy_loss",
                passed=measured.passed,
                severity=dg.AssetCheckSeverity.WARN,
                description=measured.words,
            )
        ],
        metadata={
            "model": model_id,
            "accuracy": measured.accuracy_int8,
            "accuracy of fp32": measured.accuracy_fp32,
            "agreement": measured.agreement,
            "test images": measured.images,
            "calibration images": measured.calibration_images,
            "images a second": measured.images_per_second_int8,
            "images a second of fp32": measured.images_per_second_fp32,
            "size": dg.MetadataValue.int(measured.bytes_int8),
            "size of fp32": dg.MetadataValue.int(measured.bytes_fp32),
            "path": dg.MetadataValue.path(str(target)),
        },
    )
