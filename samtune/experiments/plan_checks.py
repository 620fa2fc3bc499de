"""What is refused of a study's trials before anything is started: their data, networks, methods and batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from samtune.config.data import DataConfig, OwnDataConfig
from samtune.config.model import OwnModelConfig
from samtune.config.space import SearchSpace
from samtune.config.trial import TrialSpec
from samtune.data import DatasetInfo, check_dataset, dataset_info, prepare_dataset
from samtune.errors import DatasetError, SpaceError
from samtune.experiments.network_check import check_networks
from samtune.experiments.optimizer_check import check_optimizers
from samtune.experiments.variants import search_variants
from samtune.preflight import (
    check_method,
    check_model,
    check_relabel,
    check_stream_training,
    check_task,
    check_train,
    check_training,
)
from samtune.user_code import PREFIX
from samtune.user_source import look_up


def check_trials(source_name: str, variants: Sequence[TrialSpec], *, import_code: bool) -> DatasetInfo | None:
    """Looks at all that can be known on this machine of trials at the ends of what decides about one.

    Args:
        source_name: what the messages name: the space's file.
        import_code: whether the user's functions may be imported, and that of the data be called.

    Returns:
        What is known of the first data set.

    Raises:
        DatasetError: the data are not there or malformed.
        UsageError: the network's weights, or a part of the user's, are not there or do not fit.
        SpaceError: a batch is larger than the training set.
    """
    datasets = _datasets(variants)
    _check_files(datasets, import_code)
    infos = {key: dataset_info(config) for key, config in datasets.items() if import_code or not _must_run(config)}
    for variant in variants:
        _check_variant(source_name, variant, infos.get(variant.data.model_dump_json()), import_code)
    check_networks(variants, infos)
    check_optimizers(variants, infos, import_code=import_code)
    return next((infos.get(key) for key in datasets), None)


def check_space(space: SearchSpace) -> list[str]:
    """Refuses what a search would refuse of a space, but for the cluster and what only running the user's code tells.

    Returns:
        Why a data set could not be looked at: it need not be on the machine where a space is written.

    Raises:
        SpaceError: a combination of searched values breaks a rule, or a batch is larger than the training set.
        UsageError: a method of the user's does not take its options, or an optimizer its own; a pattern of parameter
            groups matches nothing.
    """
    variants = list(search_variants(space))
    infos, missing = {}, []
    for key, config in _datasets(variants).items():
        if isinstance(config, OwnDataConfig):
            continue  # only its function knows, which runs where the training does
        try:
            infos[key] = dataset_info(config)
        except DatasetError as error:
            missing.append(str(error))
    for variant in variants:
        check_method(variant.method, import_code=False)
        if info := infos.get(variant.data.model_dump_json()):
            _check_batch(space.source_name, variant, info)
    check_networks(variants, infos)
    check_optimizers(variants, infos, import_code=False)
    return missing


def prepare_files_of(variants: Iterable[TrialSpec]) -> None:
    """Looks whether the files of every data set that a trial can have are there, and decodes them on this machine.

    Raises:
        DatasetError: they are not, or one is damaged.
        UsageError: so is the network that relabels them.
        SpaceError: a trial breaks a rule.
    """
    datasets = _datasets(variants)
    _check_files(datasets)
    for config in datasets.values():
        prepare_dataset(config)


def _check_files(datasets: Mapping[str, DataConfig], import_code: bool = True) -> None:
    for config in datasets.values():
        if import_code or not _must_run(config):
            check_dataset(config)
        elif isinstance(config, OwnDataConfig):
            look_up(config.name, "data.name", **config.options)
        check_relabel(config.relabel)


def _datasets(variants: Iterable[TrialSpec]) -> dict[str, DataConfig]:
    """Those that differ, by their settings as text; none where a training function loads its own."""
    return {variant.data.model_dump_json(): variant.data for variant in variants if variant.train is None}


def _check_variant(source_name: str, variant: TrialSpec, info: DatasetInfo | None, import_code: bool) -> None:
    """Whether a trial's parts fit each other; without `info`, as far as that can be known."""
    if variant.train is not None:
        check_train(variant.train, import_code=import_code)
    check_training(variant.training, import_code=import_code)
    check_method(variant.method, import_code=import_code)
    if info is None:
        if isinstance(variant.model, OwnModelConfig):
            check_model(variant.model, num_classes=1, input_shape=(1,), import_code=False)
        return
    if variant.train is None:
        check_task(variant.training, classes=info.classes, one_target=info.one_target)
        if info.num_train is None:
            check_stream_training(variant.training, variant.data.name)
    check_model(variant.model, num_classes=info.num_classes, input_shape=info.input_shape, import_code=import_code)
    _check_batch(source_name, variant, info)


def _must_run(config: DataConfig) -> bool:
    """Whether nothing is known of a data set before a function by import path is called."""
    return isinstance(config, OwnDataConfig) and not config.name.startswith(PREFIX)


def _check_batch(source_name: str, variant: TrialSpec, info: DatasetInfo) -> None:
    if info.num_train is not None and variant.training.batch_size > info.num_train:
        raise SpaceError(
            f"{source_name}: training.batch_size: must not exceed the training examples "
            f"({variant.training.batch_size} > {info.num_train}, after {info.num_validation} are held out)"
        )
