"""A person promotes a model, or goes back to one that served before."""

from collections.abc import Iterator

from captcha_assets.models import registry
from captcha_assets.models.overview import accuracy_figures, read_metrics
from captcha_assets.models.predict_files import resolve
from captcha_assets.models.registry import By, Champion
from captcha_assets.models.registry_records import RegistryError
from captcha_assets.models.servable import verify_export
from captcha_assets.paths import Paths
from captcha_assets.text_formats import shown_time


def promote_by_hand(paths: Paths, name: str, reason: str, *, force: bool = False) -> Champion:
    """Make a model the champion by decision of a person; the history keeps the reason.

    Args:
        paths: where things are kept.
        name: "champion", "candidate" or an id.
        reason: one line, for the history.
        force: promote it although it was never evaluated or exported, or was refused.

    Raises:
        ModelChoiceError: there is no such model.
        ModelFolderError: the model or its export is damaged.
        RegistryError: it serves already; or, without `force`, it is not evaluated, not exported or refused.
    """
    model_id = resolve(paths, name)
    serves = registry.champion(paths.models)
    if serves and serves.model_id == model_id:
        raise RegistryError(f"{model_id} serves already, since {shown_time(serves.since)}")
    if not force and (against := list(_missing(paths, model_id))):
        raise RegistryError(
            f"{model_id} {', '.join(against)}: materialize evaluation and onnx_model while it is the "
            "candidate (captcha-assets update), or promote it all the same with --force"
        )
    if not force and (refusal := registry.refusal(paths.models, model_id)):
        raise RegistryError(f"{model_id} was refused: {refusal}; promote it all the same with --force")
    verify_export(paths, model_id)
    figures = accuracy_figures(paths, model_id)
    return registry.promote(paths.models, model_id, reason, figures, by="human")


def roll_back(
    paths: Paths,
    reason: str,
    to: str | None = None,
    *,
    force: bool = False,
    by: By = "human",
    instead_of: Champion | None = None,
) -> Champion:
    """Make a previous champion serve again: the one before today's, or `to`.

    Args:
        paths: where things are kept.
        reason: one line, for the history.
        to: a model that served: its id, or "candidate".
        force: go back to `to` although it was refused or is not exported.
        by: "rule" or "human".
        instead_of: the entry that the decision rests on; rolls back only while it is the last one.

    Raises:
        RegistryError: there is nothing to go back to, the model was refused or is not exported, or the
            champion is another one by now.
        ModelFolderError: the model or its export is damaged.
    """

    def verify(model_id: str) -> None:
        if not force and not paths.onnx_model(model_id).exists():
            raise RegistryError(
                f"the export of {model_id} is missing ({paths.onnx_model(model_id)}): export it again with "
                f"captcha-assets model export {model_id}, or add --to {model_id} --force"
            )
        verify_export(paths, model_id)

    if to is not None:
        to = resolve(paths, to)
    return registry.rollback(paths.models, reason, to, by, force=force, instead_of=instead_of, verify=verify)


def _missing(paths: Paths, model_id: str) -> Iterator[str]:
    if read_metrics(paths, model_id) is None:
        yield "was never evaluated"
    if not paths.onnx_model(model_id).exists():
        yield "was never exported"
