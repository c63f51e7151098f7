"""The configs of a sweep equal those of Hydra's compose, in the order of Hydra's sweeper."""

import itertools

import pytest
from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from cellzoo.config.checks import ConfigError
from cellzoo.config.compose import Composer, composer, store_choices
from cellzoo.sweep.plans.grid import GridPlan

CHOICES = {
    "cell": ["lstm", "gru", "elman"],
    "init": ["torch", "orthogonal"],
    "task": ["digits", "adding"],
    "optimizer": ["adam", "sgd", "{lr:0.3}"],
    "scheduler": ["constant", "cosine", "plateau"],
    "trainer": ["cpu", "debug", "{max_epochs:2}"],
    "experiment": ["jsb", "null"],
    "launcher": ["pool", "inprocess"],
    "seed": ["0", "7", "many"],
    "hidden_size": ["3", "2.5", "'8'"],
    "optimizer.lr": ["0.1", "1e-3", "x"],
    "optimizer.momentum": ["0.5"],  # sgd alone has one
    "scheduler.eta_min": ["0.001"],  # likewise cosine
    "trainer.max_epochs": ["3", "null"],
    "cell.proj_size": ["2", "0"],
    "init.forget_bias": ["1", "null", "true"],
    "init.blocks": ["{weight_hh:{f:identity}}", "null"],
    "wandb.tags": ["[a,'b c']", "[]"],
    "wandb": ["{mode:online}"],
    "data.root": ["'a b'", "${name}", "'/x=y'"],
    "name": ["one", "a-b"],
    "+trainer.limit_train_batches": ["3"],
    "++seed": ["4"],
    "~early_stopping.patience": ["null"],
    "nothing": ["3"],
}
ONE = st.sampled_from([f"{key}={v}" for key, values in CHOICES.items() for v in values])


@pytest.fixture(scope="module", autouse=True)
def compose_here():
    store_choices()
    with composer() as composer_here:
        yield composer_here


def outcome(make) -> object:
    """Return a config with and without interpolations, or the error of composing it."""
    try:
        config = make()
        return OmegaConf.to_container(config), OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        return type(error), str(error)


@settings(max_examples=80)
@given(st.lists(ONE, max_size=6, unique_by=lambda override: override.split("=")[0]))
def test_a_job_has_the_config_that_hydra_composes(overrides):
    composed = Composer()
    want = outcome(lambda: compose("config", overrides))
    for _ in range(2):  # from scratch, and with its groups known
        assert outcome(lambda: composed.compose(overrides)) == want


def test_configs_of_one_choice_of_groups_share_nothing(compose_here):
    first = compose_here.compose(["cell=gru", "optimizer.lr=0.5"])
    second = compose_here.compose(["cell=gru", "hidden_size=3"])
    assert (first.optimizer.lr, second.optimizer.lr) == (0.5, 0.01)
    assert (first.hidden_size, second.hidden_size) == (64, 3)


SWEPT = [
    ["cell=lstm,gru", "seed=range(3)", "name=x"],
    ["seed=choice(3,1,2)", "optimizer.lr=0.1,1e-3", "cell=gru"],
    ["cell=glob(*lstm)", "hidden_size=4"],
    ["seed=0,1", "seed=2,3"],  # the last one counts
    ["wandb.tags=[a],[b,c]", "init.blocks={weight_hh:{f:identity}},null"],
    ["optimizer.lr=range(0.1,0.4,0.1)", "seed=sort(3,1,2)", "data.root='a,b','c'"],
]


@pytest.mark.parametrize("overrides", SWEPT)
def test_jobs_come_in_the_order_of_hydras_sweeper(overrides, compose_here):
    plan = GridPlan(compose_here.read(overrides)[0])
    parsed = OverridesParser.create(compose_here._loader).parse_overrides(overrides)
    (want,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    assert [list(job) for job in plan.jobs()] == want
    assert plan.total == len(want)


def test_intervals_are_apart_from_the_grid(compose_here):
    given = ["seed=0,1", "optimizer.lr=interval(0,1)", "cell=gru", "hidden_size=interval(1,2)"]
    axes, intervals = compose_here.read([*given, "hidden_size=3"])  # the last one counts
    assert axes == (("seed=0", "seed=1"), ("cell=gru",), ("hidden_size=3",))
    assert [interval.input_line for interval in intervals] == ["optimizer.lr=interval(0,1)"]


def test_a_plan_is_lazy(compose_here):
    axes, _ = compose_here.read([f"{key}=range(100000)" for key in ("seed", "hidden_size")])
    plan = GridPlan(axes)
    assert plan.total == 10**10
    assert list(itertools.islice(plan.jobs(), 2))[1] == ("seed=0", "hidden_size=1")


def test_probes_have_every_value(compose_here):
    plan = GridPlan(compose_here.read(["cell=lstm,gru,elman", "seed=0,1", "name=x"])[0])
    probes = list(plan.probes())
    assert {value for probe in probes for value in probe} == {
        value for axis in plan.axes for value in axis
    }
    assert len(probes) == 1 + 2 + 1
    assert plan.label(("cell=gru", "seed=1", "name=x")) == "cell=gru seed=1"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cell=glob(nothing*)", "nothing matches"),
        ("cell=[", "cell="),
    ],
)
def test_overrides_without_values_are_refused(override, message, compose_here):
    with pytest.raises(ConfigError, match=message):
        compose_here.read([override])
