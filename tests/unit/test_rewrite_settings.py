"""The script that rewrites recipes and grids: what it makes of old settings, and that nothing old is left."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = runpy.run_path(str(ROOT / "release" / "rewrite_settings.py"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("guard: true  # ours\n", "guard_margin: 0.5  # ours\n"),
        ("  a: {<<: *b, unlearn_lr_scheduler: constant}\n", "  a: {<<: *b}\n"),
        ("  a: {forget_trials: true, forget_trial_first: true}\n", "  a: {forget_trials: both}\n"),
        ("t: [{baseline_shrink: [0.4, 0.6]}, *r]\n", "t: [{baseline_options: [{shrink: 0.4}, {shrink: 0.6}]}, *r]\n"),
        ("  a: {world_train_share: 0.1}\n", "  a: {world_options: {train_share: 0.1}}\n"),
        ("posterior_last_blocks: 2\n", "posterior_parameters: last_blocks:2\n"),
        ("# guard: true\nlora_alpha: 32\n", "# guard: true\n"),
    ],
)
def test_old_settings_become_those_of_today(old, new):
    assert SCRIPT["rewrite"](old) == new
    assert SCRIPT["rewrite"](new) == new


def test_what_has_no_equivalent_is_said():
    with pytest.raises(ValueError, match="unlearn_rescore_every: 4 has no equivalent"):
        SCRIPT["rewrite"]("unlearn_rescore_every: 4\n")


def test_no_recipe_or_grid_has_an_old_setting():
    for path in (*ROOT.glob("recipes/**/*.yaml"), *ROOT.glob("evidence/grids/**/*.yaml")):
        if path.name != "base_model.yaml":
            text = path.read_text(encoding="utf-8")
            assert SCRIPT["rewrite"](text) == text, path
