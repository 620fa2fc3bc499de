"""Whether the optimizer and the patterns of parameter groups fit the network, found out without its weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from samtune.config.model import NoModelConfig, OwnModelConfig
from samtune.config.trial import TrialSpec
from samtune.data import DatasetInfo


def check_optimizers(variants: Iterable[TrialSpec], infos: Mapping[str, DatasetInfo], *, import_code: bool) -> None:
    """Builds the optimizers of trials around networks on the meta device; SGD and AdamW alone fit any.

    Such a network has names and shapes alone, and costs next to nothing. Networks of the user's are left out, since
    their functions are not called here, and so are those of training functions; both are checked when the trial starts.

    Args:
        infos: what is known of data sets, by their configuration as JSON; trials with another one are left out.
        import_code: whether an optimizer's class by import path may be imported.

    Raises:
        UsageError: a pattern matches no parameter, the optimizer refuses its options or a parameter, or the inputs do
            not suit the network.
    """
    seen: set[str] = set()
    for variant in variants:
        training = variant.training
        info = infos.get(variant.data.model_dump_json())
        is_usual = training.optimizer_name in ("sgd", "adamw") and not training.optimizer_options
        if info is None or isinstance(variant.model, NoModelConfig | OwnModelConfig):
            continue
        if (is_usual and not training.groups) or (":" in training.optimizer_name and not import_code):
            continue
        key = f"{variant.model!r} {training.optimizer!r} {training.groups!r} {info.num_classes} {info.input_shape}"
        if key not in seen:
            seen.add(key)
            _check(variant, info)


def _check(variant: TrialSpec, info: DatasetInfo) -> None:
    import torch  # 2 s, for spaces that need it alone

    from samtune.models import build_model
    from samtune.train.optimizers import base_optimizer

    with torch.device("meta"):
        model = build_model(
            variant.model, num_classes=info.num_classes, input_shape=info.input_shape, seed=0, pretrained=False
        )
    base_optimizer(variant.training, model)
