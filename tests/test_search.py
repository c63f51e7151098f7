"""Searches: draws, proposals, and sweeps that are killed, pruned or given more trials."""

import math

import numpy as np
import pytest
from commands import TINY, as_a_user, assert_refused, result_of, results_in, start, wait_for
from hydra import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from cellzoo.config.checks import ConfigError
from cellzoo.config.compose import composer, store_choices
from cellzoo.run.result import RunResult, Status
from cellzoo.sweep.command import Sweep
from cellzoo.sweep.plans.optuna import JOURNAL, SAMPLERS, pruner
from cellzoo.sweep.plans.search import Interval

LR = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
WIDTH = "hidden_size=int(interval(2,9))"
SHARES = st.floats(0, 1, exclude_max=True)


@pytest.fixture(autouse=True)
def folder(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("search")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def plan():
    """Yield a function that returns the plan of a sweep's overrides."""
    store_choices()
    with composer() as compose_here:
        yield lambda *overrides: Sweep(compose_here, ["name=s", *overrides], False).plan


def parse(override: str):
    return OverridesParser.create().parse_override(override)


def result(status: Status, **metrics: float) -> RunResult:
    return RunResult(
        "lstm", "digits", "torch", 4, 0, "", status=status, monitor="accuracy", metrics=metrics
    )


def done(value: float) -> RunResult:
    return result(Status.DONE, accuracy=value)


DIVERGED, FAILED, PRUNED = map(result, (Status.DIVERGED, Status.FAILED, Status.PRUNED))


# Intervals


@st.composite
def intervals(draw):
    log, whole = draw(st.booleans()), draw(st.booleans())
    if whole:
        low = draw(st.integers(1 if log else -1000, 1000))
        return Interval("hidden_size", low, low + draw(st.integers(1, 10**6)), log, whole)
    low = draw(st.floats(1e-12 if log else -1e6, 1e6))
    return Interval("optimizer.lr", low, low + draw(st.floats(1e-3, 1e9)), log, whole)


@given(intervals(), SHARES)
def test_a_value_is_between_the_ends_and_is_what_hydra_reads(interval, share):
    value = interval.at(share)
    assert interval.low <= value <= interval.high
    assert isinstance(value, int) == interval.whole
    read = parse(interval.override(value))
    assert (read.key_or_group, read.value()) == (interval.key, value)
    assert type(read.value()) is type(value)


@given(intervals(), SHARES, SHARES)
def test_a_greater_share_is_no_smaller_value(interval, one, other):
    assert interval.at(min(one, other)) <= interval.at(max(one, other))


def test_shares_of_values_are_uniform_or_their_logarithms_are():
    shares = (np.arange(9000) + 0.5) / 9000
    whole = Interval("x", 2, 4, log=False, whole=True)
    assert np.unique([whole.at(s) for s in shares], return_counts=True)[1].tolist() == [3000] * 3
    plain = Interval("x", -1.0, 3.0, log=False, whole=False)
    assert np.allclose([plain.at(s) for s in shares], -1 + 4 * shares, atol=1e-5)
    log = Interval("x", 1e-4, 1e-1, log=True, whole=False)
    assert np.allclose([math.log10(log.at(s)) for s in shares], -4 + 3 * shares, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("interval(0,2)", (0.0, 2.0, False, False)),
        ("int(interval(1,9))", (1, 9, False, True)),
        ("tag(log,interval(1e-3,1))", (1e-3, 1.0, True, False)),
        ("tag(log,int(interval(1,64)))", (1, 64, True, True)),
    ],
)
def test_hydras_syntax(text, expected):
    interval = Interval.of(parse(f"x={text}"))
    assert (interval.low, interval.high, interval.log, interval.whole) == expected
    assert isinstance(interval.low, int) == interval.whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tag(loog,interval(1,2))", "the tag of an interval is log, not loog"),
        ("interval(2,2)", "requires low below high"),
        ("interval(3,2)", "requires low below high"),
        ("interval(0,inf)", "both finite"),
        ("tag(log,interval(0,1))", "requires an interval above 0"),
        ("tag(log,int(interval(0,8)))", "requires an interval above 0"),
    ],
)
def test_invalid_intervals_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        Interval.of(parse(f"x={text}"))


# Random search


def values_of(plan, key: str) -> list[str]:
    return [each for job in plan.jobs() for each in job if each.startswith(key)]


def test_every_cell_and_seed_has_the_same_draws(plan):
    search = plan("search=random", "search.trials=3", "cell=lstm,gru", "seed=0,1", LR, WIDTH)
    jobs = list(search.jobs())
    assert search.total == len(jobs) == 3 * 2 * 2
    draws = [tuple(o for o in job if o.split("=")[0] in ("optimizer.lr", "hidden_size"))
             for job in jobs]  # fmt: skip
    assert [len(set(draws[4 * trial : 4 * trial + 4])) for trial in range(3)] == [1] * 3
    assert len(set(draws)) == 3
    rest = [tuple(o for o in job if o[:4] in ("cell", "seed")) for job in jobs]
    assert rest == [(f"cell={c}", f"seed={s}") for c in ("lstm", "gru") for s in (0, 1)] * 3


def test_draws_depend_on_the_seed_and_the_trial_alone(plan):
    few = values_of(plan("search=random", "search.trials=3", LR), "optimizer.lr")
    more = values_of(plan("search=random", "search.trials=5", "cell=gru", LR), "optimizer.lr")
    other = values_of(plan("search=random", "search.trials=3", "search.seed=1", LR), "optimizer.lr")
    assert more[:3] == few
    assert not set(few) & set(other)


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([[LR], [WIDTH], [LR, WIDTH], ["dropout=interval(0,0.9)", LR]]),
    st.sampled_from(["cell=lstm,gru", "seed=0,1", "optimizer=sgd,adam", "task=adding"]),
    st.integers(0, 99),
)
def test_configs_are_those_that_hydra_composes(searched, grid, seed):
    store_choices()
    overrides = [
        "name=s",
        "search=random",
        "search.trials=2",
        f"search.seed={seed}",
        grid,
        *searched,
    ]
    with composer() as compose_here:
        for job in Sweep(compose_here, overrides, False).plan.jobs():
            mine, hydras = compose_here.compose(job), compose("config", list(job))
            assert OmegaConf.to_container(mine) == OmegaConf.to_container(hydras)


def test_the_best_trial_is_that_of_the_best_mean(plan):
    search = plan("search=random", "search.trials=3", "cell=lstm,gru", "seed=0,1", LR)
    jobs = list(search.jobs())
    assert search.best() == []
    lstm = [[done(0.5), done(0.6)], [done(0.9), DIVERGED], [done(0.7), done(0.5)]]
    gru = [[done(0.2), done(0.2)], [done(0.1), done(0.2)], [done(0.9)]]  # one run still runs
    for trial in range(3):
        for cell, results in enumerate((lstm, gru)):
            for seed, result in enumerate(results[trial]):
                search.tell(4 * trial + 2 * cell + seed + 1, result)
    lr = [next(o for o in job if o.startswith("optimizer.lr")) for job in jobs]
    assert search.best() == [
        f"best of cell=lstm: {lr[8]}  0.6 by validation, trial 3 of 3",
        f"best of cell=gru: {lr[0]}  0.2 by validation, trial 1 of 2",
    ]


def test_each_task_has_its_own_direction(plan):
    search = plan("search=random", "search.trials=2", "task=digits,adding", LR)
    list(search.jobs())
    for number, value in enumerate((0.2, 0.2, 0.9, 0.9), 1):
        search.tell(number, done(value))
    assert [line.split("trial ")[1] for line in search.best()] == ["2 of 2", "1 of 2"]


@pytest.mark.slow
def test_a_value_drawn_twice_is_one_run(folder):
    arguments = ["name=s", *TINY, "search=random", "search.trials=4", "launcher.jobs=1"]
    arguments += ["hidden_size=int(interval(4,5))"]
    ended = as_a_user("sweep", *arguments, cwd=folder)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert len(results_in(folder / "runs/s")) == 2
    assert ended.stdout.count("is the same run as job") == 2
    assert "of 4" in next(line for line in ended.stdout.splitlines() if line.startswith("best"))


# Refusals


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LR], "a grid has no intervals: say search=random, or optuna"),
        (["search=random"], "search=random requires an interval to search"),
        (["search=optuna", "optimizer.lr=0.1,0.2"], "search=optuna requires an interval to search"),
        (["search=random", LR, "search.trials=0"], "search.trials must be a whole number from 1"),
        (["search=random", LR, "search.trials=2.5"], "search.trials must be a whole number"),
        (["search=random", LR, "search.seed=-1"], "search.seed must be a whole number from 0"),
        (["search=random", LR, "search.seed=0,1"], "search.seed is one for the whole sweep"),
        (["search=random", "search.trials=int(interval(1,5))"], "search.trials is one for the"),
        (["search=random,grid", LR], "search is one for the whole sweep"),
        (["search=optuna", LR, "search.sampler=tpee"], "did you mean 'tpe'"),
        (["search=optuna", LR, "search.pruner=medain"], "did you mean 'median'"),
        (["search=optuna", LR, "search.pruner=median", "seed=0,1"], "it requires one seed"),
        (["search=randm", LR], "random"),
    ],
)  # fmt: skip
def test_invalid_searches_are_refused(overrides, message, folder, capfd):
    assert_refused(["sweep", *TINY, "name=s", *overrides], message, capfd)
    assert not (folder / "runs").exists()


# Optuna


def optuna_study(folder, plan, number: int = 0):
    optuna = pytest.importorskip("optuna")
    file = optuna.storages.journal.JournalFileBackend(str(folder / "runs/s" / JOURNAL))
    return optuna.load_study(
        study_name=plan._study(number).study_name, storage=optuna.storages.JournalStorage(file)
    )


def lr_of(job: tuple[str, ...]) -> float:
    return float(next(o for o in job if o.startswith("optimizer.lr")).split("=")[1])


def accuracy(job: tuple[str, ...]) -> float:
    return 1 - abs(math.log10(lr_of(job)) + 2) / 4  # best at 0.01


def go_through(plan, stop: int | None = None) -> list[tuple[str, ...]]:
    """Run the jobs of a plan one by one; stop before the result of job `stop`, as if killed.

    Returns the overrides of each job, without those of the whole sweep.
    """
    jobs = []
    for number, job in enumerate(plan.jobs(), 1):
        jobs.append(tuple(o for o in job if not o.startswith(("search", "name"))))
        if number == stop:
            break
        plan.tell(number, done(accuracy(job)))
    return jobs


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_resumed_search_proposes_the_same_values(sampler, plan, folder):
    pytest.importorskip("optuna")
    of = ["search=optuna", f"search.sampler={sampler}", LR, WIDTH, "cell=lstm,gru"]
    whole = go_through(plan(*of, "search.trials=13"))
    (folder / "runs/s").rename(folder / "undisturbed")
    first = go_through(plan(*of, "search.trials=9"), stop=17)
    assert first == whole[:17]
    assert go_through(plan(*of, "search.trials=13")) == whole


def test_proposals_come_from_results(plan, folder):
    pytest.importorskip("optuna")
    search = plan("search=optuna", "search.trials=40", LR)
    jobs = go_through(search)
    distances = [abs(math.log10(lr_of(job)) + 2) for job in jobs]
    assert np.mean(distances[20:]) < 5 / 6 / 2  # half the distance of uniform draws
    trials = optuna_study(folder, search).get_trials()
    assert [trial.value for trial in trials] == [accuracy(job) for job in jobs]
    assert [trial.params["optimizer.lr"] for trial in trials] == list(map(lr_of, jobs))


def test_a_diverged_trial_is_a_poor_value_and_a_failed_one_is_none(plan, folder):
    pytest.importorskip("optuna")
    search = plan("search=optuna", "search.trials=5", "seed=0,1", LR)
    results = [[done(0.5), done(0.7)], [DIVERGED, done(0.5)], [FAILED, DIVERGED], [done(0.5)]]
    for number, _ in enumerate(search.jobs(), 1):
        trial, seed = divmod(number - 1, 2)
        if trial < 4 and seed < len(results[trial]):
            search.tell(number, results[trial][seed])
    trials = optuna_study(folder, search).get_trials()
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "FAIL", "RUNNING", "RUNNING"]
    assert trials[0].value == pytest.approx(0.6)
    assert optuna_study(folder, search).direction.name == "MAXIMIZE"


def test_values_proposed_twice_are_two_trials(plan, folder):
    pytest.importorskip("optuna")
    search = plan("search=optuna", "search.trials=6", "hidden_size=int(interval(4,5))")
    for number, _ in enumerate(search.jobs(), 1):
        search.tell(number, done(0.5))
    assert {t.state.name for t in optuna_study(folder, search).get_trials()} == {"COMPLETE"}
    assert "of 6" in search.best()[0]


@pytest.mark.parametrize("other", ["dropout=0.1", "task=adding", LR.replace("1e-1", "1"), "seed=1"])
def test_another_config_or_interval_is_another_study(other, plan):
    pytest.importorskip("optuna")
    go_through(plan("search=optuna", "search.trials=2", LR))
    assert len(plan("search=optuna", LR, "trainer=cpu")._study(0).trials) == 2
    assert plan("search=optuna", LR, other)._study(0).trials == []


def test_a_poor_curve_is_pruned_and_one_reported_twice_is_one(plan, folder):
    pytest.importorskip("optuna")
    search = plan("search=optuna", "search.pruner=median", "search.trials=7", LR)
    ended = []
    for number, _ in enumerate(search.jobs(), 1):
        ask = pruner(search.trial(number))
        ended.append([ask(epoch, 0.1 if number > 5 else 0.5 + 0.1 * epoch) for epoch in (0, 1)])
        if number == 7:  # it was killed and resumes
            assert pruner(search.trial(number))(1, 0.1)
        search.tell(number, PRUNED if number > 5 else done(0.6))
    assert ended == [[False] * 2] * 5 + [[True] * 2] * 2
    trials = optuna_study(folder, search).get_trials()
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert trials[6].intermediate_values == {0: 0.1, 1: 0.1}
    assert not pruner(search.trial(7))(2, 0.1)  # the trial has ended


OPTUNA = ["search=optuna", LR, "launcher.jobs=1", *TINY, "save_every=0.2"]


def trials_in(sweep) -> dict[str, tuple]:
    return {
        str(path.parent.relative_to(sweep)): (result["status"], result["metrics"])
        for path in sorted(sweep.glob("*/s*/result.json"))
        for result in [result_of(path.parent)]
    }


@pytest.mark.slow
def test_a_killed_search_ends_as_an_undisturbed_one(folder):
    pytest.importorskip("optuna")
    arguments = [*OPTUNA, "trainer.max_epochs=3"]
    command = ["sweep", "name=killed", "search.trials=4", *arguments]
    sweep = start(*command, cwd=folder)
    wait_for(lambda: len(list(folder.glob("runs/killed/*/s0/checkpoints"))) == 2, sweep)
    sweep.kill()
    sweep.communicate()
    assert len(trials_in(folder / "runs/killed")) < 4
    again = as_a_user(*command, cwd=folder)
    assert again.returncode == 0, again.stderr + again.stdout
    raised = as_a_user(*command, "search.trials=5", cwd=folder)
    assert "4 had ended before" in raised.stdout, raised.stderr
    whole = as_a_user("sweep", "name=whole", "search.trials=5", *arguments, cwd=folder)
    assert whole.returncode == 0, whole.stderr
    resumed, expected = trials_in(folder / "runs/killed"), trials_in(folder / "runs/whole")
    assert len(expected) == 5
    assert resumed == expected
    (best,) = [line for line in whole.stdout.splitlines() if line.startswith("best")]
    assert best in raised.stdout.splitlines()


@pytest.mark.slow
def test_a_pruned_run_is_shown_left_out_and_finished_by_a_grid(folder):
    pytest.importorskip("optuna")
    pruning = [*OPTUNA, "search.sampler=random", "search.trials=8", "search.pruner=median"]
    arguments = ["sweep", "name=s", *pruning, "trainer.max_epochs=2"]
    ended = as_a_user(*arguments, cwd=folder)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    pruned = [each for each in results_in(folder / "runs/s") if each["status"] == "pruned"]
    assert pruned, ended.stdout
    assert "pruned: ended by the search after epoch" in ended.stdout
    for shown in (ended.stdout, as_a_user("sweep", "--status", "runs/s", cwd=folder).stdout):
        words = [line.split() for line in shown.splitlines()]
        heading = next(line for line in words if line[:2] == ["cell", "done"])
        counts = dict(
            zip(heading, next(line for line in words if line[:1] == ["all"]), strict=True)
        )
        assert counts["pruned"] == str(len(pruned))
        assert counts["done"] == str(8 - len(pruned))
    table = as_a_user("compare", "runs/s", "--by", "optimizer.lr", cwd=folder).stdout
    assert f"{len(pruned)} unfinished left out" in table
    again = as_a_user(*arguments, cwd=folder)
    assert "8 had ended before" in again.stdout
    directory = next(
        path.parent
        for path in folder.glob("runs/s/*/s0/result.json")
        if result_of(path.parent)["status"] == "pruned"
    )
    lr = OmegaConf.load(directory / "config.yaml").optimizer.lr
    grid = as_a_user(
        "sweep", "name=s", *TINY, "trainer.max_epochs=2", "save_every=0.2", f"optimizer.lr={lr!r}",
        cwd=folder,
    )  # fmt: skip
    assert grid.returncode == 0, grid.stderr
    result = result_of(directory)
    assert (result["status"], result["reason"]) == ("done", None)
    assert [each["ended"].split(":")[0] for each in result["attempts"]] == ["pruned", "done"]
