"""From splits to a champion. What each step does is in `training`, `evaluation` and `models`."""

import dataclasses
import shutil

import dagster as dg

from captcha_assets.defs.compute import Compute
from captcha_assets.defs.model.config import TrainingConfig
from captcha_assets.defs.model.promotion import (
    champion_metadata,
    champion_version,
    clause_results,
    clause_specs,
)
from captcha_assets.defs.model.training import TRAINING_CODE, job_for
from captcha_assets.defs.presentation import link, picture
from captcha_assets.images import local
from captcha_assets.images.splits import require_images
from captcha_assets.images.table import content_hash
from captcha_assets.models import folder, registry
from captcha_assets.models.reading import resolve
from captcha_assets.settings import Settings
from captcha_assets.storage import fetched, replacing
from captcha_assets.sweeps.production import production_settings


@dg.asset(
    deps=["splits", "training_settings"],
    group_name="model",
    kinds={"pytorch", "lightning", "timm"},
    code_version=TRAINING_CODE,
    pool="training",
    description="The trained candidate: weights, config, classes, history, provenance.",
)
def resnet18(
    context: dg.AssetExecutionContext,
    config: TrainingConfig,
    settings: dg.ResourceParam[Settings],
    compute: dg.ResourceParam[Compute],
) -> dg.MaterializeResult:
    """Train in a process of its own; an interrupted training goes on where it was."""
    from captcha_assets.evaluation import plots
    from captcha_assets.quality import drift

    require_images(settings.splits)
    told = config.to_settings(production_settings(settings))
    with local.local_tables(settings) as data:
        job = job_for(settings, data, told, context.run_id)
        compute.run(context, job)
        seen = drift.summarize(data.tables, data.splits)
        trained, model_id = job.output, folder.verify(job.output)
        with replacing(settings.training_splits(model_id)) as part:
            shutil.copyfile(data.splits, part)
    drift.save(seen, settings.training_summary(model_id))
    registry.add_candidate(settings.models, trained)
    metrics, history = folder.read_metrics(trained), folder.read_history(trained)
    shutil.rmtree(trained.parent)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(model_id),
        metadata={
            "model": model_id,
            "path": dg.MetadataValue.path(str(registry.model_folder(settings.models, model_id))),
            "splits": job.splits_version,
            "epochs": len(history),
            "curves": picture(plots.training_curves(history), "training curves"),
            **{name: value for name, value in metrics.items() if isinstance(value, (int, float, str))},
            "settings": dg.MetadataValue.json(dataclasses.asdict(told)),
        },
    )


@dg.asset(
    deps=[resnet18, "splits"],
    group_name="model",
    kinds={"pytorch", "matplotlib"},
    code_version="1",
    description="What the candidate is worth on the test split: accuracy with its interval, per class, "
    "calibration, confusion, the worst mistakes.",
)
def evaluation(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Measure the candidate on today's test split."""
    from captcha_assets.evaluation.evaluate import evaluate

    model_id, splits_version = resolve(settings, "candidate"), content_hash(settings.splits)
    with (
        local.local_tables(settings) as data,
        fetched(registry.model_folder(settings.models, model_id)) as model,
    ):
        measured = evaluate(
            model,
            data.tables,
            data.splits,
            settings.evaluation(model_id),
            splits_version=splits_version,
            delivery_link="../../quality/image_table/{batch}/report.html",
        )
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
            **{name.replace("_", " "): picture(png, name) for name, png in measured.pictures.items()},
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
            description="The export says the same as the model it was made from.",
            blocking=True,
        )
    ],
)
def onnx_model(settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Export the candidate, and run both on the images of the test split."""
    from captcha_assets.images.reader import read_split
    from captcha_assets.models import onnx

    model_id = resolve(settings, "candidate")
    target = settings.onnx_model(model_id)
    with (
        local.local_tables(settings) as data,
        fetched(registry.model_folder(settings.models, model_id)) as model,
    ):
        parity = onnx.export(model, target, read_split(data.tables, data.splits, "test").pixels)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(parity.version),
        check_results=[
            dg.AssetCheckResult(
                check_name="parity",
                passed=parity.passed,
                description=f"probabilities differ by at most {parity.max_abs_difference:.1e} on "
                f"{parity.images} images; the same character on {parity.agreement:.2%}",
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
    code_version="1",
    description="Which model serves, since when, instead of which, and why.",
    check_specs=clause_specs(),
)
def champion(context: dg.AssetExecutionContext, settings: dg.ResourceParam[Settings]) -> dg.MaterializeResult:
    """Promote the candidate if there is no champion, or if it is better on today's test split."""
    from captcha_assets.evaluation import promotion

    with local.local_tables(settings) as data:
        outcome = promotion.consider_candidate(settings, data)
    context.log.info(
        f"{outcome.candidate} {'promoted' if outcome.promoted else 'not promoted'}: {outcome.reason}"
    )
    return dg.MaterializeResult(
        data_version=champion_version(outcome.champion),
        check_results=clause_results(outcome.clauses),
        metadata={
            **champion_metadata(outcome.champion),
            "candidate": outcome.candidate,
            "promoted now": outcome.promoted,
            "refused": outcome.reason if outcome.refused else "no",
            "why": outcome.reason,
        },
    )
