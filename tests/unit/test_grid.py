"""What a grid file may say, and the cells that follow from it."""

from pathlib import Path

import pytest
import yaml

from graceful_forgetting.sweeps.grid_file import load_grid

ROOT = Path(__file__).parents[2]


@pytest.fixture
def grid(tmp_path):
    """Writes a valid grid with changes; None removes a key."""
    content = {
        "learning": ["a", "b"],
        "forgetting": ["a", "b", "c", "mixed"],
        "base": {"max_steps": 2},
        "methods": {"plain": {"arm": "plain"}, "lwf": None, "random": {"forget_strategy": "random"}},
        "seeds": [0, 1],
    }

    def write(**changes):
        path = tmp_path / "grid.yaml"
        kept = {key: value for key, value in {**content, **changes}.items() if value is not None}
        path.write_text(yaml.safe_dump(kept, sort_keys=False))
        return load_grid(str(path))

    return write


def test_the_matrix_leaves_out_the_diagonal_and_mixed_is_all_others(grid):
    found = {(lea, forg): fields["forgetting_tasks"] for lea, forg, _, fields in grid().combinations()}
    assert found == {
        ("a", "b"): ["b"],
        ("a", "c"): ["c"],
        ("a", "mixed"): ["b", "c"],
        ("b", "a"): ["a"],
        ("b", "c"): ["c"],
        ("b", "mixed"): ["a", "c"],
    }
    cells = grid().cells({})
    assert len(cells) == 6 * 3 * 2
    assert len({cell.folder for cell in cells}) == len(cells)
    assert cells[0].fields == {"max_steps": 2, "learning_task": "a", "forgetting_tasks": ["b"], "seed": 0}


def test_mixed_alone_is_all_other_tasks_that_are_learned(grid):
    found = grid(learning=["a", "b", "c"], forgetting=["mixed"]).combinations()
    assert [fields["forgetting_tasks"] for *_, fields in found] == [["b", "c"], ["a", "c"], ["a", "b"]]


def test_a_part_of_a_grid_has_the_cells_of_the_whole(grid):
    whole = grid(learning=["a", "b", "c"], forgetting=["mixed"])
    cells = whole.only(["c", "a"]).cells({})
    assert cells == [cell for cell in whole.cells({}) if cell.learning != "b"]
    assert {tuple(cell.fields["forgetting_tasks"]) for cell in cells} == {("b", "c"), ("a", "b")}


def test_a_part_that_cannot_be_run_alone(grid):
    with pytest.raises(ValueError, match=r"unknown name 'd' in --learning of the grid 'grid': there are: a, b"):
        grid().only(["a", "d"])
    tuned = grid(
        tune={"plain": {"learning_rate": [1, 2]}, "lwf": "plain", "random": "plain"},
        validation_seeds=[7],
        tune_together=True,
    )
    with pytest.raises(ValueError, match=r"--learning a: with tune_together .* Run it whole"):
        tuned.only(["a"])
    assert tuned.only(["b", "a"]).cells({}) == tuned.cells({})


def test_worlds_take_all_their_tasks_or_some(grid):
    found = grid(worlds=["w"], learning=None, forgetting={"all": "mixed", "some": ["x", "y"], "one": "x"})
    assert [fields for *_, fields in found.combinations()] == [
        {"max_steps": 2, "world": "w"},
        {"max_steps": 2, "world": "w", "forgetting_tasks": ["x", "y"]},
        {"max_steps": 2, "world": "w", "forgetting_tasks": ["x"]},
    ]
    assert [s for _, _, s, _ in grid(worlds=["w"], learning=None, forgetting=None).combinations()] == ["default"]


def test_roles_are_the_first_of_each_arm(grid):
    methods = {
        "bss": {"arm": "lwf"},
        "plain": {"arm": "plain"},
        "slow": {"arm": "plain", "learning_rate": 1e-5},
        "twin": {"arm": "never_knew"},
        "fresh": {"arm": "scratch"},
        "any": {"forget_strategy": "random"},
        "other": {"forget_strategy": "random", "unlearn_every": 2},
    }
    assert grid(methods=methods).roles == {
        "plain": "plain", "twin": "never_knew", "fresh": "scratch", "any": "random",
    }  # fmt: skip


def test_tuning_tries_every_value_on_the_validation_seeds_only(grid):
    tune = {"plain": {"learning_rate": [1, 2]}, "lwf": {"unlearn_every": [3, 4]}, "random": "lwf"}
    found = grid(tune=tune, validation_seeds=[7, 8, 9])
    trials = found.trials(0, {})
    assert len(trials) == 6 * 2 * 2 * 3
    assert {(cell.method, cell.split, cell.seed) for cell in trials} == {
        (method, "validation", seed) for method in ("plain", "lwf") for seed in (7, 8, 9)
    }
    assert {cell.fields["unlearn_every"] for cell in trials if cell.method == "lwf"} == {3, 4}
    chosen = {"a/b/default": {"random": {"unlearn_every": 4}}}
    changed = {(c.combination, c.method) for c in found.cells(chosen) if c.fields.get("unlearn_every") == 4}
    assert changed == {("a/b/default", "random")}
    assert (found.rounds, found.trials(1, {})) == (1, [])


def test_a_later_round_tries_its_values_with_what_earlier_ones_chose(grid):
    tune = {
        "plain": {"learning_rate": [1, 2, 3, 4]},
        "lwf": [{"unlearn_every": [3, 4]}, {"learning_rate": [5, 6]}],
    }
    found = grid(tune=tune, validation_seeds=[7])
    assert found.rounds == 2
    chosen = {
        cell.combination: {"plain": {"learning_rate": 4}, "lwf": {"unlearn_every": 3}} for cell in found.cells({})
    }
    second = found.trials(1, chosen)
    assert {cell.method for cell in second} == {"lwf"}
    assert {(cell.fields["unlearn_every"], cell.fields["learning_rate"]) for cell in second} == {(3, 5), (3, 6)}
    assert {cell.folder.parts[4] for cell in second} == {
        "lwf+unlearn_every=3+learning_rate=5", "lwf+unlearn_every=3+learning_rate=6",
    }  # fmt: skip
    settings = {"one": {"learning_rate": 1e-3}}
    with pytest.raises(ValueError, match=r"learning_rate is set by methods\.\w+ and by settings\.one"):
        grid(tune=tune, validation_seeds=[7], settings=settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sead": [1]}, "unknown key 'sead'.*did you mean 'seeds'"),
        ({"base": {"max_stepz": 2}}, "unknown field 'max_stepz' in base: did you mean 'max_steps'"),
        ({"methods": {"x": {"unlearn_evry": 2}}}, "'unlearn_evry' in methods.x: did you mean 'unlearn_every'"),
        ({"methods": {"x": {"arm": "plane"}}}, "methods.x.arm='plane'.*plain"),
        ({"methods": {"a/b": None}}, "the name 'a/b' is not valid"),
        ({"base": {"learning_rate": [1, 2]}}, r"base\.learning_rate=\[1, 2\] is not valid: it must be a number"),
        ({"settings": {"a": {"max_steps": True}}}, r"settings\.a\.max_steps=True is not valid"),
        (
            {"tune": {"lwf": {"unlearn_weight": [1, "no"]}}, "validation_seeds": [9]},
            r"\.yaml: tune\.lwf\.unlearn_weight='no' is not valid: it must be a number",
        ),
        ({"seeds": [-1]}, r"seeds\.seed=-1 is not valid: it must be from 0"),
        ({"output_dir": 3}, "output_dir=3 is not valid: it must be text"),
        ({"tune": {"lwf": [1]}, "validation_seeds": [9]}, r"tune\.lwf=1 is not valid: it must map recipe fields"),
        ({"methods": {}}, "methods is empty"),
        ({"settings": {"x": {"output_dir": "y"}}}, "output_dir in settings.x is decided by the grid"),
        ({"base": {"seed": 1}}, "seed in base is decided by the grid: use seeds"),
        ({"settings": {"x": {"forget_strategy": "lowest"}}}, "is set by methods.random and by settings.x"),
        ({"worlds": ["shortcut"]}, "either worlds or learning"),
        ({"learning": ["a"], "forgetting": ["a"]}, "no cell is left"),
        ({"seeds": [1, 1]}, "every seed once"),
        ({"seeds": 3}, "list of whole numbers"),
        ({"evaluate_every": 0}, "evaluate_every=0.*at least 1"),
        ({"keep_models": "yes"}, "keep_models='yes'.*true or false"),
        ({"tune": {"plain": {"learning_rate": [1]}}}, "tune needs validation_seeds"),
        ({"tune": {"plane": {"learning_rate": [1]}}, "validation_seeds": [9]}, "unknown method 'plane'.*'plain'"),
        ({"tune": {"plain": {"learning_rate": 1}}, "validation_seeds": [9]}, "must be a list of values"),
        ({"tune": {"lwf": "plain"}, "validation_seeds": [9]}, "method that is tuned itself"),
        ({"tune": {"plain": []}, "validation_seeds": [9]}, "at least one round"),
        (
            {"tune": {"plain": [{"learning_rate": [1]}, {"unlearn_evry": [1]}]}, "validation_seeds": [9]},
            "'unlearn_evry' in tune.plain: did you mean 'unlearn_every'",
        ),
        (
            {
                "tune": {"plain": {"learning_rate": [1, 2]}, "lwf": [{"unlearn_every": [1, 2]}, {"seed": [1]}]},
                "validation_seeds": [9],
            },
            "seed in tune.lwf is decided by the grid",
        ),
        ({"validation_seeds": [1]}, "share \\[1\\]"),
        (
            {"tune": {"plain": {"learning_rate": [1]}, "lwf": {"unlearn_every": [1, 2]}}, "validation_seeds": [9]},
            "different numbers of trials \\(plain: 1, lwf: 2\\)",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(grid, changes, message):
    with pytest.raises(ValueError, match=message):
        grid(**changes)


def test_committed_grids_are_valid():
    for path in (ROOT / "evidence" / "grids").rglob("*.yaml"):
        assert load_grid(str(path)).cells({})
