"""The types of a config.

Hydra composes a command line into `Composed`: a key that no class here has, or a value of another
type, is refused. A run reads `RunConfig`, which is what `Composed` says of one run.

The groups `cell`, `init` and `task` hold what is registered; `compose.store_choices` makes a class
for each of their choices. Every other group has its classes here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Self, Union, get_type_hints

from omegaconf import II, MISSING

# OmegaConf reads the annotations of this file at run time: Optional and Union, not `|`.
# ruff: noqa: UP007, UP045


@dataclass
class Section:
    """A part of a config, which may hold more keys than its class declares."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build the section from plain containers, as `to_mapping` returns them."""
        kinds = get_type_hints(cls)
        section = cls()
        for key, value in mapping.items():
            kind = kinds.get(key)
            if isinstance(kind, type) and issubclass(kind, Section):
                value = kind.from_mapping(value)
            setattr(section, key, value)
        return section

    def to_mapping(self) -> dict[str, Any]:
        """Return the section as plain containers."""
        return {key: _plain(value) for key, value in vars(self).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.to_mapping()
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


@dataclass
class Choice(Section):
    """A named choice and its options, which lie beside the name."""

    name: str = MISSING

    @property
    def options(self) -> dict[str, Any]:
        """Return the options by name."""
        return {key: value for key, value in self.to_mapping().items() if key != "name"}


@dataclass
class Optimizer(Choice):
    """An optimizer of torch.optim.

    Attributes:
        lr: the learning rate.
        weight_decay: the L2 penalty; for adamw the decoupled decay.
    """

    lr: float = 0.01
    weight_decay: float = 0.0


@dataclass
class Adam(Optimizer):
    """torch.optim.Adam."""

    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])


@dataclass
class AdamW(Adam):
    """torch.optim.AdamW."""

    name: str = "adamw"
    weight_decay: float = 0.01


@dataclass
class RMSprop(Optimizer):
    """torch.optim.RMSprop."""

    name: str = "rmsprop"
    lr: float = 0.001
    alpha: float = 0.99
    momentum: float = 0.0


@dataclass
class SGD(Optimizer):
    """torch.optim.SGD."""

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True


@dataclass
class Scheduler(Choice):
    """A schedule of the learning rate, by epoch."""

    name: str = "constant"


@dataclass
class Cosine(Scheduler):
    """From the learning rate to `eta_min` over `T_max` epochs."""

    name: str = "cosine"
    T_max: Optional[int] = II("trainer.max_epochs")
    eta_min: float = 0.0


@dataclass
class StepDecay(Scheduler):
    """The learning rate times `gamma` every `step_size` epochs."""

    name: str = "step"
    step_size: int = 10
    gamma: float = 0.5


@dataclass
class Plateau(Scheduler):
    """The learning rate times `factor` after `patience` epochs without a better validation."""

    name: str = "plateau"
    factor: float = 0.5
    patience: int = 5


@dataclass
class Trainer(Section):
    """Arguments of lightning.Trainer; `+trainer.<argument>=<value>` adds any other one.

    Attributes:
        accelerator, strategy: Lightning's names: cpu, gpu, auto; auto, ddp.
        devices: a number, a list of indices, or "auto".
        precision: Lightning's name, as 32-true, bf16-mixed, 64-true.
        max_epochs, max_steps: a run ends at whichever comes first; -1: no limit.
        gradient_clip_val: the largest norm of the gradient; null: no limit.
        deterministic: whether torch refuses algorithms that are not deterministic, or "warn".
        log_every_n_steps: steps between two rows of training metrics.
        check_val_every_n_epoch: epochs between two validations.
        fast_dev_run: run this many batches of each split, to see that everything works.
        overfit_batches: train on this many batches over and over.
    """

    accelerator: str = "cpu"
    devices: Any = 1
    strategy: str = "auto"
    precision: Union[int, str] = "32-true"
    max_epochs: Optional[int] = 30
    max_steps: int = -1
    gradient_clip_val: Optional[float] = 1.0
    deterministic: Union[bool, str] = False
    log_every_n_steps: int = 10
    check_val_every_n_epoch: Optional[int] = 1
    fast_dev_run: Union[bool, int] = False
    overfit_batches: Union[int, float] = 0.0


@dataclass
class Logger(Section):
    """The loggers of a run: files always, W&B where `wandb` is true."""

    wandb: bool = True


@dataclass
class EarlyStopping(Section):
    """Stop after `patience` validations that improve the monitored metric by `min_delta` or less.

    A patience of null never stops early.
    """

    patience: Optional[int] = None
    min_delta: float = 0.0


@dataclass
class Data(Section):
    """The folder with data files; null: CELLZOO_DATA, else a cache."""

    root: Optional[str] = None


@dataclass
class WandB(Section):
    """Arguments of wandb.init; `mode` is offline or online."""

    mode: str = "offline"
    project: str = "cellzoo"
    entity: Optional[str] = None
    tags: list[str] = field(default_factory=list)
    save_code: bool = False


@dataclass
class Settings(Section):
    """The settings of one run, as a command line gives them.

    Attributes:
        name: the run is written to runs/<name>.
        seed: of the weights, the order of examples, and generated examples.
        hidden_size: H, the units of a layer.
        budget: parameters of the whole model; the nearest hidden_size is taken. null: none.
        num_layers, bidirectional: of the RNN.
        dropout: the probability of zeroing an output between layers.
        engine: "auto", or an engine by name.
        checkpoint_steps: keep states every so many steps for the backward pass; null: keep all.
        save_every: seconds between two checkpoints.
    """

    name: Optional[str] = None
    seed: int = 0
    hidden_size: int = 64
    budget: Optional[int] = None
    num_layers: int = 1
    bidirectional: bool = False
    dropout: float = 0.0
    engine: str = "auto"
    checkpoint_steps: Optional[int] = None
    save_every: float = 10.0
    cell: Choice = MISSING
    init: Choice = MISSING
    task: Choice = MISSING
    optimizer: Optimizer = MISSING
    scheduler: Scheduler = MISSING
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = MISSING
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    data: Data = field(default_factory=Data)
    wandb: WandB = field(default_factory=WandB)


@dataclass
class Plugin(Section):
    """The source of a cell, init or task that is not cellzoo's own.

    Attributes:
        file: its path.
        sha256: the hash of its code.
    """

    file: str = MISSING
    sha256: str = MISSING


@dataclass
class RunConfig(Settings):
    """The resolved config of one run.

    Attributes:
        plugins: the sources by kind: "cell", "init", "task".
    """

    plugins: dict[str, Plugin] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Build a config from plain containers, as config.yaml and a job's order hold them."""
        config = super().from_mapping(mapping)
        plugins = mapping.get("plugins", {})
        config.plugins = {kind: Plugin.from_mapping(plugin) for kind, plugin in plugins.items()}
        return config

    def to_mapping(self) -> dict[str, Any]:
        """Return the config as plain containers; a budget of None is left out.

        A run without a budget then equals one that was recorded before there were budgets.
        """
        mapping = super().to_mapping()
        if mapping["budget"] is None:
            del mapping["budget"]
        return mapping


@dataclass
class Launcher(Choice):
    """The launcher that runs a sweep's jobs."""


@dataclass
class InProcess(Launcher):
    """One job after another in this process, for a debugger."""

    name: str = "inprocess"


@dataclass
class Pool(Launcher):
    """Processes on this machine, as many at once as there are slots; a free slot takes a job.

    Attributes:
        jobs: slots without GPUs; auto: one for each processor (or group of trainer.devices).
        threads: of each process; auto: OMP_NUM_THREADS, else the processors shared out.
        gpus: indices; auto: all that are visible where the trainer uses GPUs.
        gpus_per_job: auto: trainer.devices.
        jobs_per_gpu: jobs that share a GPU.
        timeout: seconds that an attempt may take; null: no limit.
        retries: after a signal or out of memory; an exception of the cell is never retried.
        start: "fork" from a process with everything imported, "spawn", or "auto".
    """

    name: str = "pool"
    jobs: Union[int, str] = "auto"
    threads: Union[int, str] = "auto"
    gpus: Any = "auto"
    gpus_per_job: Union[int, str] = "auto"
    jobs_per_gpu: int = 1
    timeout: Optional[float] = None
    retries: int = 2
    start: str = "auto"


@dataclass
class Slurm(Launcher):
    """Slurm, as job arrays; the sweep's directory lies on a shared file system.

    Attributes:
        cluster: "slurm", or "local": processes of this machine in Slurm's place.
        jobs: in the queue or running at once.
        time: minutes of a job; one that needs more is requeued and resumed.
        partition, account, qos, constraint, mem: of sbatch, mem as 8GB.
        cpus: of a job; auto: one for each of trainer.devices.
        gpus: of a job; auto: trainer.devices where the trainer uses GPUs.
        setup: shell commands before a job: [module load cuda].
        extra: further options of sbatch: {exclude: node7}.
        retries: of a job that was killed, or whose node failed.
        requeues: after preemption, or at the end of a job's time.
        poll: seconds between two looks at the queue.
    """

    name: str = "slurm"
    cluster: str = "slurm"
    jobs: int = 100
    time: float = 60
    partition: Optional[str] = None
    account: Optional[str] = None
    qos: Optional[str] = None
    constraint: Optional[str] = None
    cpus: Union[int, str] = "auto"
    gpus: Union[int, str] = "auto"
    mem: Optional[str] = None
    setup: list[str] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    retries: int = 2
    requeues: int = 20
    poll: float = 5.0


@dataclass
class Ray(Launcher):
    """A Ray cluster; the sweep's directory lies on a shared file system.

    Attributes:
        address: auto: the cluster of this machine; null: a new one here; or host:port.
        cpus: of a job; auto: one for each of trainer.devices.
        gpus: of a job, 0.5: two jobs share one; auto: trainer.devices where it uses GPUs.
        retries: of a job that was killed, or whose node failed.
    """

    name: str = "ray"
    address: Optional[str] = "auto"
    cpus: Union[int, str] = "auto"
    gpus: Union[int, float, str] = "auto"
    retries: int = 2


@dataclass
class Search(Choice):
    """The plan of a sweep."""


@dataclass
class Grid(Search):
    """Every combination of the comma-separated values."""

    name: str = "grid"


@dataclass
class Random(Search):
    """Values drawn from intervals.

    Attributes:
        trials: of each combination of the other values; a trial is repeated for each seed.
        seed: of the draws, which are the same for every combination.
    """

    name: str = "random"
    trials: int = 20
    seed: int = 0


@dataclass
class Optuna(Random):
    """Values that Optuna proposes from the results so far; one study for each combination.

    Attributes:
        sampler: "tpe", "gp" or "random".
        pruner: "median", "halving" or "hyperband"; ends runs with a poor validation curve.
    """

    name: str = "optuna"
    sampler: str = "tpe"
    pruner: Optional[str] = None


@dataclass
class Composed(Settings):
    """A composed command line: one run's settings, and those of the sweep."""

    launcher: Launcher = MISSING
    search: Search = MISSING

    def run(self) -> RunConfig:
        """Return the settings of one run, without plugins."""
        return RunConfig(**{each.name: getattr(self, each.name) for each in fields(Settings)})


# The groups whose choices are declared here: group, choice, and the node that Hydra composes.
GROUPS: dict[str, dict[str, Section]] = {
    "optimizer": {each.name: each for each in (Adam(), AdamW(), RMSprop(), SGD())},
    "scheduler": {each.name: each for each in (Scheduler(), Cosine(), StepDecay(), Plateau())},
    "trainer": {
        "cpu": Trainer(),
        "gpu": Trainer(accelerator="gpu"),
        "ddp": Trainer(accelerator="auto", devices=2, strategy="ddp"),
        "debug": Trainer(fast_dev_run=True),
        "overfit": Trainer(overfit_batches=1, max_epochs=100),
    },
    "logger": {"files": Logger(wandb=False), "wandb": Logger()},
    "launcher": {each.name: each for each in (InProcess(), Pool(), Ray(), Slurm())},
    "search": {each.name: each for each in (Grid(), Optuna(), Random())},
}
