"""The commands for a user: help, configs, and the messages for wrong input."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from commands import LEAKY, TINY, as_a_user, assert_refused, result_of, results_in, sweep, train

import cellzoo
from cellzoo.cells.registry import cells
from cellzoo.cli import main


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CELLZOO_DATA", raising=False)


WRONG_INPUT = {
    "trian": "unknown command 'trian': did you mean 'train'?",
    "train cell=lstmm": "unknown cell 'lstmm': did you mean 'lstm'?",
    "sweep cell=lstm,grru": "unknown cell 'grru': did you mean 'gru'?",
    "train init=orthogonl": "unknown init 'orthogonl': did you mean 'orthogonal'?",
    "train task=digit": "unknown task 'digit': did you mean 'digits'?",
    "train optimizer=adma": "unknown optimizer 'adma': did you mean 'adam'?",
    "train experiment=jbs": "unknown experiment 'jbs': did you mean 'jsb'?",
    "train hiden_size=3": "unknown option 'hiden_size': did you mean 'hidden_size'?",
    "train cell.projsize=3": "cell lstm has no option 'projsize': did you mean 'proj_size'?",
    "sweep cell=gru,lstm cell.proj_size=1,2": "cell gru has no option 'proj_size'",
    "train cell=gru,lstm": "train is one run: cellzoo sweep cell=gru,lstm",
    "train cell gru": "an override is KEY=VALUE, not 'cell'",
    "train lr=0.1": "unknown option 'lr': did you mean 'optimizer.lr'?",
    "train optimizer.lrr=3": "unknown option 'optimizer.lrr': did you mean 'optimizer.lr'?",
    "train cell=elman cell.nonlinearity=sin": "must be one of 'tanh', 'relu', not 'sin'",
    "train cell.proj_size=many": "cell.proj_size must be a whole number, not 'many'",
    "train hidden_size=0": "hidden_size must be greater than zero, not 0",
    "train hidden_size=-3": "hidden_size must be greater than zero, not -3",
    "train hidden_size=many": "hidden_size must be a whole number, not 'many'",
    "train cell=elman init.forget_bias=1": "no gate of elman is declared to keep its memory",
    "train init.blocks={weight_hh:{q:identity}}": "lstm has no gate 'q' in weight_hh",
    "train engine=fast": "unknown engine 'fast'",
    "train cell=gru_v1 engine=native": "torch.nn has no kernel for it",
    "train wandb.mode=onlin": "wandb.mode is one of offline, online, not 'onlin'",
    "train seed=-1": "seed must be 0 or more, not -1",
    "train trainer.max_epochs=x": "trainer.max_epochs must be a whole number, not 'x'",
    "train optimizer.lr=x": "optimizer.lr must be a number, not 'x'",
    "train +trainer.max_epoch=3": "lightning.Trainer has no argument 'max_epoch': did you mean",
    "train task=jsb data.root=/nowhere": "no JSB_Chorales.mat in /nowhere: put it at /nowhere/jsb/",
    "train --plugin nope.py": "plugin nope.py does not exist",
    "train --plugin no_such_module": "plugin no_such_module: no such file or module",
    "train hidden_size": "hidden_size",
    "cells --plugin": "argument --plugin: expected one argument",
    "train --hlep": "unknown flag '--hlep': did you mean '--help'?",
    "sweep seed=0,1 trainer=ddp launcher=inprocess": "cannot be one of several ranks",
    "cells lstmm": "unknown cell 'lstmm': did you mean 'lstm'?",
    "tasks coppy": "unknown task 'coppy': did you mean 'copy'?",
    "compare nowhere": "nowhere",
}


@pytest.mark.parametrize("line", WRONG_INPUT)
def test_wrong_input_is_one_line_and_leaves_nothing(line, tmp_path, capfd):
    assert "Traceback" not in assert_refused(line.split(), WRONG_INPUT[line], capfd)
    assert not list(tmp_path.rglob("*.json"))
    assert not list((tmp_path / "runs").glob("*"))


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("1/0", r"plugin bad.py: ZeroDivisionError: division by zero \(bad.py:1\)"),
        ("def f(:", r"plugin bad.py: SyntaxError"),
        (LEAKY.replace("leaky_lstm", "gru"), r"cell 'gru' is already registered"),
        (LEAKY.replace('("i", "f", "g", "o")', "3"), r"is not iterable"),
    ],
)
def test_plugins_that_are_broken(code, says, tmp_path, capfd):
    (tmp_path / "bad.py").write_text(code)
    status = main(["train", "--plugin", "bad.py", *TINY, "cell=leaky_lstm"])
    assert status == 2
    errors = capfd.readouterr().err
    assert re.search(says, errors)
    assert "Traceback" not in errors


def test_a_plugin_that_fails_half_way_registers_nothing(tmp_path):
    code = LEAKY.replace('"leaky_lstm"', '"half_lstm", deprecated=["old_half"]')
    (tmp_path / "half.py").write_text(code + "\n1/0\n")
    assert main(["cells", "--plugin", "half.py"]) == 2
    assert "half_lstm" not in cellzoo.list_cells()
    assert "old_half" not in cells.deprecated_names()
    (tmp_path / "half.py").write_text(code)
    with pytest.warns(FutureWarning, match="cell 'old_half' is deprecated"):
        assert main(["cells", "old_half", "--plugin", "half.py"]) == 0


def test_a_deprecated_name_is_the_present_cell_in_runs_and_sweeps(tmp_path):
    code = LEAKY.replace('"leaky_lstm"', '"leaky_lstm", deprecated=["old_leaky"]')
    (tmp_path / "my_cell.py").write_text(code)
    with pytest.warns(FutureWarning, match="cell 'old_leaky' is deprecated: use 'leaky_lstm'"):
        assert train("--plugin", "my_cell.py", "cell=old_leaky", "name=one") == 0
    assert result_of(tmp_path / "runs/one")["cell"] == "leaky_lstm"
    assert sweep("--plugin", "my_cell.py", "name=s", "cell=old_leaky,elman") == 0
    assert {r["cell"] for r in results_in("runs/s")} == {"leaky_lstm", "elman"}
    # The same runs under the present name: nothing is left to do.
    before = {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("*/*/result.json")}
    assert sweep("--plugin", "my_cell.py", "name=s", "cell=leaky_lstm,elman") == 0
    after = {path: path.stat().st_mtime_ns for path in Path("runs/s").glob("*/*/result.json")}
    assert before == after
    # A run that was recorded under the deprecated name.
    config = yaml.safe_load(Path("runs/one/config.yaml").read_text())
    config["cell"]["name"] = "old_leaky"
    Path("runs/one/config.yaml").write_text(yaml.safe_dump(config))
    cells._warned.clear()
    with pytest.warns(FutureWarning, match="cell 'old_leaky' is deprecated"):
        model = cellzoo.load_run("runs/one")
    assert repr(model.rnn).startswith("RNN(leaky_lstm,")


def test_an_impure_cell_is_named_with_its_line(tmp_path, capfd):
    code = LEAKY.replace("leaky_lstm", "impure").replace(
        "return h, c", "self.h = h\n        return h, c"
    )
    (tmp_path / "impure.py").write_text(code)
    assert main(["train", "--plugin", "impure.py", *TINY, "cell=impure"]) == 2
    line = code.splitlines().index("        self.h = h") + 1
    assert f"impure.update writes self.h, {tmp_path}/impure.py:{line}" in capfd.readouterr().err


def test_debug_shows_the_traceback(capfd):
    assert main(["train", "--debug", "hidden_size=0"]) == 2
    assert "Traceback" in capfd.readouterr().err


def test_a_registered_cell_is_a_choice_with_its_options(tmp_path, capsys):
    code = LEAKY.replace("import GatedCell,", "import GatedCell, option,").replace(
        "0.9 *", "self.leak *"
    )
    code = code.replace(
        'states = ("h", "c")', 'states = ("h", "c")\n    leak: float = option(0.9, "λ")'
    )
    code = code.replace("leaky_lstm", "leaky_option")
    (tmp_path / "my_cell.py").write_text(code)
    assert main(["train", "--plugin", "my_cell.py", "cell=leaky_option", "--cfg", "job"]) == 0
    output = capsys.readouterr().out
    assert "cell:\n  name: leaky_option\n  leak: 0.9" in output
    assert main(["train", "--plugin", "my_cell.py", "cell=leaky_option", "--help"]) == 0
    output = capsys.readouterr().out
    assert "leak: 0.9" in output
    assert "leaky_option" in output.split("cell: ")[1].splitlines()[0]
    assert main(["cells", "leaky_option"]) == 0
    assert "leak=0.9  λ" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()
    assert train("--plugin", "my_cell.py", "cell=leaky_option", "cell.leak=0.5", "name=one") == 0


def test_plugins_by_variable_by_module_and_side_by_side_with_ours(tmp_path, monkeypatch):
    (tmp_path / "leaky_by_variable.py").write_text(LEAKY.replace("leaky_lstm", "by_variable"))
    (tmp_path / "leaky_module.py").write_text(LEAKY.replace("leaky_lstm", "by_module"))
    done = as_a_user(
        "sweep", "--plugin", "leaky_module", *TINY, "cell=by_variable,by_module,lstm", "name=s",
        cwd=tmp_path, CELLZOO_PLUGINS=str(tmp_path / "leaky_by_variable.py"),
        PYTHONPATH=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {r["cell"] for r in results_in("runs/s")} == {"by_variable", "by_module", "lstm"}
    assert main(["compare", "runs/s"]) == 0


def test_plugins_by_entry_point(tmp_path):
    site = tmp_path / "site"
    (site / "leaky-1.0.dist-info").mkdir(parents=True)
    (site / "leaky_package.py").write_text(LEAKY.replace("leaky_lstm", "from_package"))
    (site / "leaky-1.0.dist-info" / "METADATA").write_text("Name: leaky\nVersion: 1.0\n")
    (site / "leaky-1.0.dist-info" / "entry_points.txt").write_text(
        "[cellzoo.cells]\nfrom_package = leaky_package\n"
    )
    code = "import cellzoo; print(cellzoo.list_cells('from*'), cellzoo.RNN('from_package', 2, 3))"
    output = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "['from_package'] RNN(from_package, 2, 3)" in output


def test_an_edited_plugin_is_another_run(tmp_path):
    for leak in ("0.9", "0.8"):
        (tmp_path / "my_cell.py").write_text(LEAKY.replace("0.9", leak))
        done = as_a_user(
            "sweep", "--plugin", "my_cell.py", *TINY, "cell=leaky_lstm", "name=s", "trainer=debug",
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "runs/s").glob("leaky_lstm-*"))) == 2


def test_importing_cellzoo_is_light():
    heavy = "{'lightning', 'hydra', 'wandb', 'pandas', 'matplotlib', 'sklearn', 'scipy'}"
    code = f"import sys, cellzoo; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there():
    for name in cellzoo.__all__:
        assert getattr(cellzoo, name) is not None
    with pytest.raises(AttributeError):
        cellzoo.nothing  # noqa: B018


def test_cells_and_tasks_are_listed(capsys):
    assert main(["cells"]) == 0
    output = capsys.readouterr().out
    for name in cellzoo.list_cells():
        assert name in output
    assert "33,280" in output  # an LSTM's: 4·64·(64 + 64) + 2·4·64
    assert main(["cells", "peephole_lstm"]) == 0
    output = capsys.readouterr().out
    assert "p_f ⊙ c" in output
    assert "zoo/lstm_variants.py:" in output
    assert main(["tasks"]) == 0
    assert "adding" in capsys.readouterr().out
    assert main(["tasks", "jsb"]) == 0
    assert "88 notes" in capsys.readouterr().out
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert main(["--version"]) == 0
    assert cellzoo.__version__ in capsys.readouterr().out


def test_a_sweep_and_a_comparison_as_a_user(tmp_path):
    """Ten lines, a run, a sweep beside lstm, a comparison: in processes of their own."""
    (tmp_path / "my_cell.py").write_text(LEAKY)
    arguments = ["cell=lstm,leaky_lstm", "seed=0,1", "task=adding", "task.train_size=320"]
    arguments += ["engine=auto"]
    swept = as_a_user(
        "sweep", "--plugin", "my_cell.py", *TINY, *arguments, "name=mine", cwd=tmp_path
    )
    assert swept.returncode == 0, swept.stderr
    assert "compare them: cellzoo compare runs/mine" in swept.stdout
    compared = as_a_user("compare", "runs/mine", "--baseline", "lstm", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "leaky_lstm" in compared.stdout
    assert {p.name for p in (tmp_path / "runs/mine/compare").iterdir()} >= {
        "runs.csv", "table.csv", "curves.png", "curves.svg", "dots.png", "dots.svg",
    }  # fmt: skip


def test_init_blocks_and_name_by_itself(tmp_path):
    assert train("init=orthogonal", "init.blocks={weight_hh:{f:identity}}", "init.gain=0.5") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("train-")
    assert result_of(run)["init"] == "orthogonal"


def test_a_sweep_by_init_names_the_failed_job(capsys):
    assert sweep("name=s", "cell=elman,lstm", "init.forget_bias=1.0") == 1
    output = capsys.readouterr().out
    assert "failed: ValueError: forget_bias: no gate of elman" in output
    statuses = {r["cell"]: r["status"] for r in results_in("runs/s")}
    assert statuses == {"elman": "failed", "lstm": "done"}


@pytest.mark.slow
def test_a_built_wheel_works_in_another_folder(tmp_path):
    repository = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "-o", str(tmp_path)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    assert (target / "cellzoo" / "conf" / "config.yaml").exists()
    assert (target / "cellzoo" / "py.typed").exists()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(target)!r})
        import cellzoo; assert cellzoo.__file__.startswith({str(target)!r}), cellzoo.__file__
        from cellzoo.config.checks import conf_folder; assert {str(target)!r} in str(conf_folder())
        from cellzoo.cli import main
        sys.exit(main({["train", *TINY, "name=one", "trainer=debug"]!r}))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert result_of(elsewhere / "runs/one")["status"] == "done"
