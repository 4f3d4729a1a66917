"""Scorers and objectives of a user's own: found by import path, refused by name, told apart by their code."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from graceful_forgetting import LWFConfig
from graceful_forgetting.confidence.scorer import Scorer
from graceful_forgetting.confidence.scorers import LossScorer, scorer_code, scorer_named
from graceful_forgetting.config import ConfidenceConfig, changed
from graceful_forgetting.runs.recipe import recipe_from_fields
from graceful_forgetting.unlearning.objectives import objective_code, objective_of

MODULE = """
from graceful_forgetting.confidence.losses import Losses
from graceful_forgetting.confidence.scorers import LossScorer
from graceful_forgetting.unlearning.objectives.formulas import BoundedAscent

class Mine(LossScorer):
    def score(self, measured):
        return FACTOR * measured["loss"]

FACTOR = 2.0
OBJECT = Mine()
with_cap = lambda args: None

def half_the_cap(args):
    return BoundedAscent(args.unlearn_loss_cap / 2)
"""

RECIPE = {"world": "shortcut", "output_dir": "unused"}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The folder of a module of the user's own, which is the current one."""
    (tmp_path / "own_parts.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(Path.cwd()))])
    yield tmp_path
    sys.modules.pop("own_parts", None)


def config(**changes) -> LWFConfig:
    return LWFConfig(output_dir="unused", bf16=False, activation_checkpointing=False, **changes)


def test_a_path_leads_to_a_class_an_object_or_a_function(own):
    assert type(scorer_named("own_parts:Mine")).__name__ == "Mine"
    assert scorer_named("own_parts:OBJECT") is sys.modules["own_parts"].OBJECT
    assert objective_of(config(unlearn_objective="own_parts:half_the_cap", unlearn_loss_cap=3.0)).loss_cap == 1.5


def test_a_class_goes_by_its_path_in_every_kind_of_settings(own):
    scorer_named("own_parts:Mine")
    mine = sys.modules["own_parts"].Mine
    assert config(confidence_scorer=mine).confidence_scorer == "own_parts:Mine"
    assert changed(config(), confidence_scorer=mine).confidence_config().scorer == "own_parts:Mine"
    assert ConfidenceConfig(scorer=mine).scorer == "own_parts:Mine"
    _, args, _ = recipe_from_fields({**RECIPE, "confidence_scorer": "own_parts:Mine"}, "a recipe")
    assert args.confidence_scorer == "own_parts:Mine"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence_scorer": "own_partz:Mine"}, "^confidence_scorer='own_partz:Mine' cannot be imported: ModuleNot"),
        ({"confidence_scorer": "own_parts:Nobody"}, "'own_parts:Nobody' cannot be imported: AttributeError.*Nobody"),
        (
            {"unlearn_objective": "own_parts:"},
            "^unlearn_objective='own_parts:' cannot be imported.*package.module:Name",
        ),
        ({"confidence_scorer": "surprise"}, "^confidence_scorer='surprise' .*random, or an import path package.module"),
    ],
    ids=str,
)
def test_a_path_that_leads_nowhere_is_refused_by_its_setting(own, changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_what_is_no_scorer_or_objective_is_refused(own):
    with pytest.raises(ValueError, match="scorer='own_parts:FACTOR' is a float: it must be a subclass of Scorer"):
        scorer_named("own_parts:FACTOR")
    with pytest.raises(ValueError, match="unlearn_objective='own_parts:with_cap' gives a NoneType"):
        objective_of(config(unlearn_objective="own_parts:with_cap"))


def test_a_class_inside_a_function_is_refused():
    class Hidden(LossScorer):
        pass

    with pytest.raises(ValueError, match=r"scorer: .*<locals>.Hidden has no import path; write it at the top level"):
        ConfidenceConfig(scorer=Hidden)


def test_a_change_of_the_module_changes_the_keys_and_that_of_ours_has_none(own):
    assert scorer_code("interference") == {}
    assert objective_code(config()) == {}
    before = scorer_code("own_parts:Mine")
    path = {"unlearn_objective": "own_parts:half_the_cap"}
    assert scorer_code("own_parts:OBJECT") == before
    assert objective_code(config(**path)).keys() == {"objective_code"}
    (own / "own_parts.py").write_text(MODULE.replace("2.0", "3.0"), encoding="utf-8")
    assert scorer_code("own_parts:Mine") != before


def test_code_without_a_file_is_told_apart_by_what_it_computes(monkeypatch):
    def scorer(formula):
        names = {"__name__": "a_notebook", "Scorer": Scorer}
        exec(f"class Mine(Scorer):\n    def score(self, measured):\n        return {formula}", names)
        monkeypatch.setitem(sys.modules, "a_notebook", SimpleNamespace(**names))
        return scorer_code("a_notebook:Mine")

    assert scorer("measured['loss']") == scorer("measured['loss']")
    assert scorer("measured['loss']") != scorer("-measured['loss']")


def test_the_command_finds_a_module_in_the_folder_where_it_is_called(own):
    code = "import sys; sys.path.pop(0); from graceful_forgetting.cli.command_line import main; sys.exit(main())"
    recipe = [flag for name, value in RECIPE.items() for flag in (f"--{name}", value)]
    command = [sys.executable, "-c", code, "advise", *recipe, "--confidence_scorer", "own_parts:Nobody"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=own)
    assert done.returncode == 2
    assert "confidence_scorer='own_parts:Nobody' cannot be imported: AttributeError" in done.stderr
