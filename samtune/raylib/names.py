"""Every private or undocumented name of Ray that samtune uses, with the reason and what would replace it.

`tests/raylib/test_names.py` checks each against the installed Ray. The environment variables are in
`samtune.raylib.environment`, and checked there too.
"""

from __future__ import annotations

from samtune.undocumented import Undocumented

_STATE = "ray._private.state:GlobalState"
_AUTOSCALER = "ray.core.generated.autoscaler_pb2"
_TRAINER = "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer"
_INTERNAL = "ray.train.v2._internal"
_GROUP = f"{_INTERNAL}.execution.worker_group.worker_group:WorkerGroup"
_CONTROLLER = "ray.tune.execution.tune_controller"
_PBT = "ray.tune.schedulers.pbt"
_POPULATION = "samtune.raylib.population"

# Groups of names that one public feature would replace.
_NODES = "a public list of the nodes that are being drained, and of what the autoscaler may add"
_LIGHT_TRAINER = "a TorchTrainer whose driver and controller do not import torch, with a public way to end it"
_LOCAL = "a trainer that neither asks an autoscaler nor copies the environment on a cluster of this machine"
_SIZES = "a ScalingConfig that is told the number of workers before each start of a group"
_THREADS = "an option of Tune to run trainables in threads of the driver"
_PAUSES = "a searcher that Tune tells of pauses, as HyperBandForBOHB does"
_PBT_SEARCHER = "population based training that takes a searcher, draws the whole population first, and has a seed"

CLUSTER = (
    Undocumented("ray._private.state:state", "the cluster's tables, of the connected driver", _NODES),
    Undocumented(f"{_STATE}.get_draining_nodes", "nodes about to be taken away get no trial", _NODES, "(self)"),
    Undocumented(f"{_STATE}.get_cluster_config", "a search may wait for nodes that can still come", _NODES, "(self)"),
    Undocumented(f"{_AUTOSCALER}:ClusterConfig.NODE_GROUP_CONFIGS_FIELD_NUMBER", "the kinds of nodes", _NODES),
    Undocumented(f"{_AUTOSCALER}:NodeGroupConfig.NAME_FIELD_NUMBER", "to count the running nodes of a kind", _NODES),
    Undocumented(f"{_AUTOSCALER}:NodeGroupConfig.MAX_COUNT_FIELD_NUMBER", "how many of a kind may run", _NODES),
    Undocumented(f"{_AUTOSCALER}:NodeGroupConfig.RESOURCES_FIELD_NUMBER", "what a node of a kind offers", _NODES),
    Undocumented(
        "ray._private.utils:read_ray_address",
        "whether the cluster of this machine still answers: ray.init tries a dead one for minutes",
        "a time limit of ray.init(address='auto')",
        "()",
    ),
    Undocumented(
        "ray._private.node:Node.get_session_dir_path",
        "Ray Train's files of a cluster of this machine are not in the study's folder",
        "the folder in ray.get_runtime_context()",
        "(self)",
    ),
    Undocumented(
        "ray._private.ray_constants:ENABLE_RAY_CLUSTER",
        "a cluster of this machine alone listens on loopback",
        "an option of ray.init for the address that its ports are bound to",
    ),
    Undocumented(
        "ray.job_config:JobConfig._runtime_env_has_working_dir",
        "the driver's working directory stays off the workers' path, where libraries would import from it",
        "an option of ray.init for the folders on the workers' path",
        "(self)",
        override="samtune.raylib.job_config:IsolatedJobConfig._runtime_env_has_working_dir",
    ),
)
"""Used by `samtune.raylib.cluster`; the last two by `samtune.raylib.environment` and `samtune.raylib.job_config`."""

_FEWER = "options of ray.init for which processes a cluster of this machine has"
_NODE = "ray._private.node:Node"

UNUSED_PROCESSES = (
    Undocumented(f"{_NODE}.start_log_monitor", "not started: nobody reads what it sends", _FEWER, "(self)"),
    Undocumented(f"{_NODE}.start_monitor", "not started: there is no autoscaler to ask", _FEWER, "(self)"),
)
"""Used by `samtune.raylib.unused_processes`."""

_LOOKS = "a wait of ray.init that ends when the node has come"

START_WAITS = (
    Undocumented("ray._private.services:get_node", "replaced while a cluster starts", _LOOKS, "(gcs_address, node_id)"),
    Undocumented("ray._raylet:GcsClient", "whether the node has come", _LOOKS),
    Undocumented(
        "ray._private.services:start_ray_process",
        "when the first of a cluster's processes are started",
        "a callback of ray.init",
        "(command, process_type, fate_share)",
    ),
    Undocumented("ray._private.ray_constants:PROCESS_TYPE_DASHBOARD", "which of them is the last of the first", _LOOKS),
)
"""Used by `samtune.raylib.start_waits`."""

_LOSS = "a callback of ray.init for a cluster that is lost"

CLUSTER_LOSS = (
    Undocumented("ray._private.worker:_global_node", "the processes of a cluster that ray.init has started", _LOSS),
    Undocumented("ray._private.node:Node.all_processes", "likewise", _LOSS),
    Undocumented("ray._private.services:ProcessInfo.process", "whether one has ended", _LOSS),
)
"""Used by `samtune.raylib.cluster_loss`."""

TRAIN = (
    Undocumented(
        f"{_TRAINER}._initialize_and_run_controller",
        "the controller can be killed, and installs no signal handler",
        _LIGHT_TRAINER,
        "(self, train_fn_ref=1, scaling_policy=1, failure_policy=1, train_run_context=1, callbacks=1, "
        "validation_config=1)",
        override="samtune.raylib.group_trainer:GroupTrainer._initialize_and_run_controller",
    ),
    Undocumented(
        f"{_TRAINER}._create_default_callbacks",
        "leaves out callbacks that each start a process",
        _LIGHT_TRAINER,
        "(self)",
        override="samtune.raylib.group_trainer:GroupTrainer._create_default_callbacks",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController",
        "the actor that the override starts",
        _LIGHT_TRAINER,
        "(train_fn_ref=1, scaling_policy=1, failure_policy=1, train_run_context=1, callbacks=1, validation_config=1)",
    ),
    Undocumented(f"{_INTERNAL}.execution.controller:TrainController.run", "as in Ray's own", _LIGHT_TRAINER, "(self)"),
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController.get_result", "as in Ray's own", _LIGHT_TRAINER, "(self)"
    ),
    Undocumented(
        f"{_INTERNAL}.callbacks.datasets:DatasetsCallback",
        "left out: Ray Data is not used, and it starts a process",
        _LIGHT_TRAINER,
    ),
    Undocumented(
        f"{_INTERNAL}.callbacks.placement_group_callback:PlacementGroupCleanerCallback",
        "left out: it starts a process that removes the placement group of a dead controller; ours goes with its job",
        _LIGHT_TRAINER,
    ),
    Undocumented(
        f"{_INTERNAL}.constants:get_env_vars_to_propagate", "as in Ray's own controller", _LIGHT_TRAINER, "()"
    ),
    Undocumented(
        f"{_INTERNAL}.execution.scaling_policy.fixed:FixedScalingPolicy.after_controller_start",
        "on a cluster of one machine no autoscaler is asked: that takes an actor, 2 s at the start",
        _LOCAL,
        "(self, 1)",
        override="samtune.raylib.group_trainer:LocalScalingPolicy.after_controller_start",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.scaling_policy:ScalingDecision",
        "the type of the following",
        _SIZES,
    ),
    Undocumented(
        f"{_INTERNAL}.execution.scaling_policy.fixed:FixedScalingPolicy.make_decision_for_non_running_worker_group",
        "a group restarts with more workers for the last trials of a search",
        _SIZES,
        "(self)",
        override="samtune.raylib.group_trainer:SizedScalingPolicy.make_decision_for_non_running_worker_group",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.scaling_policy.fixed:FixedScalingPolicy._maybe_send_resource_request",
        "likewise",
        _LOCAL,
        "(self)",
        override="samtune.raylib.group_trainer:LocalScalingPolicy._maybe_send_resource_request",
    ),
    Undocumented(
        f"{_GROUP}._get_worker_runtime_env",
        "a process with a runtime environment is started by another, and never taken from those in reserve",
        _LOCAL,
        "({})",
        override="samtune.raylib.driver_controller:LocalWorkerGroup._get_worker_runtime_env",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController.worker_group_cls",
        "the way to the override above",
        _LOCAL,
        override="samtune.raylib.group_trainer:LocalController.worker_group_cls",
    ),
    Undocumented(
        f"{_STATE}._connect_and_get_accessor",
        "the placement groups of a controller that died, which only its job's end removes",
        "Train's own cleaner without a process of its own",
        "(self)",
    ),
    Undocumented(
        "ray.core.generated.gcs_pb2:PlacementGroupTableData.CREATOR_ACTOR_ID_FIELD_NUMBER",
        "whose a placement group is",
        "the creator in ray.util.placement_group_table",
    ),
    Undocumented("ray.actor:ActorHandle._actor_id", "the id of the controller", "a public id of an actor handle"),
    Undocumented("ray._raylet:RAY_NODE_ID_KEY", "keeps the controller on the driver's node", _LIGHT_TRAINER),
    Undocumented(f"{_GROUP}.execute_single_async", "a backend's way to its workers", _LIGHT_TRAINER, "(self, 0, 1, 2)"),
    Undocumented(f"{_GROUP}.execute_async", "a backend's way to its workers", _LIGHT_TRAINER, "(self, 1)"),
    Undocumented(f"{_GROUP}.get_resources_per_worker", "NCCL where the workers have GPUs", _LIGHT_TRAINER, "(self)"),
    Undocumented(
        "ray.train.backend:Backend.on_start",
        "joins the workers into one process group",
        _LIGHT_TRAINER,
        "(self, 1, 2)",
        override="samtune.raylib.group_trainer:LazyTorchBackend.on_start",
    ),
    Undocumented(
        "ray.train.backend:Backend.on_shutdown",
        "ends the process group",
        _LIGHT_TRAINER,
        "(self, 1, 2)",
        override="samtune.raylib.group_trainer:LazyTorchBackend.on_shutdown",
    ),
    Undocumented(
        "ray.train.backend:BackendConfig.backend_cls",
        "names the backend",
        _LIGHT_TRAINER,
        override="samtune.raylib.group_trainer:LazyTorchConfig.backend_cls",
    ),
    Undocumented(
        "ray.train.backend:Backend.share_cuda_visible_devices",
        "as TorchTrainer's backend has it",
        _LIGHT_TRAINER,
        override="samtune.raylib.group_trainer:LazyTorchBackend.share_cuda_visible_devices",
    ),
    Undocumented(
        f"{_INTERNAL}.exceptions:WorkerHealthCheckFailedError",
        "its attribute health_check_failure tells a lost process from an error",
        "the cause of a worker's error in UserCallback.after_exception",
        "(message, failure=1)",
    ),
    Undocumented(
        "ray.train.torch.config:_set_torch_distributed_env_vars", "as TorchTrainer's backend does", _LIGHT_TRAINER, "()"
    ),
    Undocumented(
        "ray.util:get_node_ip_address", "where rank 0 serves the store of the process group", _LIGHT_TRAINER, "()"
    ),
)
"""Used by `samtune.raylib.group_trainer`."""

_IN_DRIVER = "a trainer whose controller runs in the calling process, as Ray Train's own local mode without a cluster"
_STATE_OF_GROUP = f"{_INTERNAL}.execution.worker_group.state"
_DRIVER = "samtune.raylib.driver_controller"

DRIVER_CONTROLLER = (
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController._step",
        "a group that is killed ends without another attempt",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:DriverController._step",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController._poll_workers",
        "workers that train are asked less often than workers that end",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:DriverController._poll_workers",
    ),
    Undocumented(f"{_INTERNAL}.execution.controller:TrainController._latest_poll_time", "when that was", _IN_DRIVER),
    Undocumented(
        f"{_INTERNAL}.execution.controller:TrainController._train_run_context",
        "names the log file",
        _IN_DRIVER,
    ),
    Undocumented("ray.exceptions:AsyncioActorExit", "what the controller passes on as it is", _IN_DRIVER),
    Undocumented(
        f"{_INTERNAL}.logging.logging:SessionFileHandler",
        "what the controller logs goes to the session's files, not to the user's terminal",
        _IN_DRIVER,
        "(0)",
    ),
    Undocumented(
        f"{_INTERNAL}.execution.checkpoint.sync_actor:SynchronizationActor",
        "the barrier, an actor that starts when a worker calls it: nothing in a search does",
        "a barrier that starts when it is first called",
    ),
    Undocumented(f"{_GROUP}._start_impl", "runs with the barrier above", _IN_DRIVER, "(self, 1)"),
    Undocumented(
        f"{_GROUP}._start",
        "ends what has started where the rest cannot; there is no barrier to end",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:_DriverWorkerGroup._start",
    ),
    Undocumented(
        f"{_GROUP}._create_placement_group",
        "with its placement group a group is ended from another thread, even while it starts",
        _IN_DRIVER,
        "(self, 1, 2)",
        override=f"{_DRIVER}:_DriverWorkerGroup._create_placement_group",
    ),
    Undocumented(
        f"{_GROUP}._init_train_context_on_workers",
        "gives the workers no handle of the controller, which is no actor",
        _IN_DRIVER,
        "(self, 1, 2, 3)",
        override=f"{_DRIVER}:_DriverWorkerGroup._init_train_context_on_workers",
    ),
    *(
        Undocumented(f"{_GROUP}.{name}", "passed to the workers in the override above", _IN_DRIVER)
        for name in ("_train_run_context", "_storage_context", "_worker_callbacks_to_propagate")
    ),
    Undocumented(f"{_GROUP}._decorate_worker_log_file_paths", "called in the same override", _IN_DRIVER, "(1)"),
    Undocumented(
        f"{_STATE_OF_GROUP}:WorkerGroupState.shutdown",
        "ends workers that have no barrier",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:_State.shutdown",
    ),
    Undocumented(
        f"{_STATE_OF_GROUP}:WorkerGroupStateBuilder.build",
        "the way to the override above",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:_StateBuilder.build",
    ),
    Undocumented(
        f"{_STATE_OF_GROUP}:WorkerGroupStateBuilder.shutdown",
        "likewise, of a group that did not come up",
        _IN_DRIVER,
        "(self)",
        override=f"{_DRIVER}:_StateBuilder.shutdown",
    ),
    Undocumented(f"{_STATE_OF_GROUP}:_shutdown_workers", "called in the overrides above", _IN_DRIVER, "(1)"),
)
"""Used by `samtune.raylib.driver_controller`."""

DRIVER_TRIALS = (
    Undocumented(
        f"{_CONTROLLER}:TuneController._actor_manager",
        "replaced; `tests/raylib/test_driver_trials.py` checks that DriverTrials has what the controller asks for",
        _THREADS,
    ),
    Undocumented(
        "ray.air.execution._internal.tracked_actor:TrackedActor",
        "what the controller keeps of a trial's actor",
        _THREADS,
        "(1, on_start=None, on_stop=None, on_error=None)",
    ),
    *(
        Undocumented(f"ray.air.execution._internal.tracked_actor:TrackedActor.{name}", "told of its end", _THREADS)
        for name in ("_on_stop", "_on_error")
    ),
    Undocumented("ray.actor:ActorClass._ray_from_modified_class", "the class within an actor's is run", _THREADS),
    Undocumented(
        f"{_CONTROLLER}:TuneController.checkpoint", "not while trials run", _THREADS, "(self, force=True, wait=True)"
    ),
    Undocumented(
        f"{_CONTROLLER}:TuneController._schedule_trial_save",
        "what it returns waits for the thread",
        _THREADS,
        "(self, 1, None)",
    ),
    Undocumented(
        "ray.train._internal.session:_FutureTrainingResult.resolve",
        "a scheduler waits for a checkpoint that is being written",
        _THREADS,
        "(self, block=True)",
        override="samtune.raylib.driver_trials:_Saving.resolve",
    ),
    Undocumented(
        "ray.tune:Trainable._setup_logdir",
        "makes a folder, and may make it the working directory",
        _THREADS,
        "(self)",
        override="samtune.raylib.driver_trials:DriverTrainable._setup_logdir",
    ),
)
"""Used by `samtune.raylib.driver_trials`."""

SCHEDULERS = (
    Undocumented(f"{_CONTROLLER}:TrialRunnerWrapper._tune_controller", "the way to the controller", _THREADS),
    Undocumented(f"{_CONTROLLER}:TuneController.search_alg", "the way to the searcher, told of pauses", _PAUSES),
    Undocumented("ray.tune.search.search_generator:SearchGenerator.searcher", "likewise", _PAUSES),
    Undocumented(
        "ray.tune.schedulers:HyperBandScheduler._supports_buffered_results",
        "silences Tune's warning about a buffer that is off",
        "no warning where TUNE_RESULT_BUFFER_LENGTH is 0",
        override="samtune.raylib.schedulers:HyperBand._supports_buffered_results",
    ),
    Undocumented(
        "ray.tune.schedulers:MedianStoppingRule._time_attr",
        "the rule fails on a trial that ends without a result",
        "the fault mended in Ray",
    ),
    Undocumented(
        "ray.tune.schedulers:MedianStoppingRule._on_insufficient_samples",
        "the rule pauses trials to wait for others, which may never come",
        "an option to continue instead",
        "(self, 1, 2, 3)",
        override="samtune.raylib.schedulers:Median._on_insufficient_samples",
    ),
)
"""Used by `samtune.raylib.schedulers`."""

TUNE_STATE = (
    Undocumented(
        "ray.tune.execution.experiment_state:logger",
        "tracebacks about files of Tune's own state, which samtune does not read, that had gone while they were copied",
        "an option of Tune not to keep a state",
    ),
)
"""Used by `samtune.raylib.silent_reporter`."""

POPULATION = (
    *(
        Undocumented(f"{_PBT}:PopulationBasedTraining.{name}", why, _PBT_SEARCHER)
        for name, why in {
            "_metric": "whether a result can be compared",
            "_time_attr": "whether a result can be compared",
            "_perturbation_interval": "whether a trial is due to be compared",
            "_next_perturbation_sync": "whether the whole population has arrived",
            "_trial_state": "whether the whole population has arrived",
        }.items()
    ),
    *(
        Undocumented(f"{_PBT}:_PBTTrialState.{name}", why, _PBT_SEARCHER)
        for name, why in {
            "last_perturbation_time": "whether a trial is due to be compared",
            "last_train_time": "whether the whole population has arrived",
            "last_result": "the epoch of the weights that a trial takes over",
        }.items()
    ),
    Undocumented(
        f"{_PBT}:PopulationBasedTraining._save_trial_state",
        "keeps a result until the population is complete",
        _PBT_SEARCHER,
        "(self, 1, 2, 3, 4)",
    ),
    Undocumented(
        f"{_PBT}:PopulationBasedTraining._exploit",
        "reports that a trial takes over the weights of another",
        _PBT_SEARCHER,
        "(self, 1, 2, 3)",
        override=f"{_POPULATION}:Population._exploit",
    ),
    Undocumented(
        "ray.tune.schedulers.pb2:PB2._exploit",
        "reports that a trial takes over the weights of another",
        _PBT_SEARCHER,
        "(self, 1, 2, 3)",
        override=f"{_POPULATION}:PopulationBandits._exploit",
    ),
)
"""Used by `samtune.raylib.population`."""

NAMES = (
    *(*CLUSTER, *UNUSED_PROCESSES, *START_WAITS, *CLUSTER_LOSS, *TRAIN, *DRIVER_CONTROLLER),
    *(*DRIVER_TRIALS, *SCHEDULERS, *TUNE_STATE, *POPULATION),
)
