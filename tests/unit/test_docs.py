"""The documentation says what the result files and the code say."""

import dataclasses
import re
import runpy
from pathlib import Path
from statistics import fmean

import pytest
from trl import SFTConfig

import graceful_forgetting
from evidence.demo_arms import ARMS
from evidence.plots.demo import demo_chart
from evidence.plots.standalone import standalone_svg
from evidence.tables.specs import early_outcomes
from graceful_forgetting import config
from graceful_forgetting.runs import advice
from graceful_forgetting.runs.arguments import RunArguments
from graceful_forgetting.runs.models import ModelArguments

ROOT = Path(__file__).parents[2]
SENTENCES = runpy.run_path(str(ROOT / "docs" / "sentences.py"))
PAGES_TO_READ = (
    "README.md",
    "docs/quickstart.md",
    "docs/concepts.md",
    "docs/when-it-helps.md",
    "docs/methods.md",
    "docs/faq.md",
    "docs/log.md",
)


def test_tables_are_those_of_the_result_files():
    tables = runpy.run_path(str(ROOT / "evidence" / "make_tables.py"))
    for path in tables["FILES"]:
        text = path.read_text(encoding="utf-8")
        assert "<!-- table: " in text
        assert tables["filled"](text, tables["TABLES"]) == text, (
            f"{path.name} is out of date: python -m evidence.make_tables"
        )


def test_picture_of_the_readme_is_that_of_the_result_files():
    drawn = (ROOT / "docs" / "figures" / "demo.svg").read_text(encoding="utf-8")
    assert standalone_svg(demo_chart()) == drawn, "python -m evidence.make_results"
    assert {len(arm.values) for arm in ARMS} == {10}


@pytest.mark.parametrize(
    "cls", [config.LWFConfig, config.ElicitationConfig, config.PosteriorConfig, config.ConfidenceConfig,
            config.SelectionConfig, RunArguments, ModelArguments],
)  # fmt: skip
def test_every_field_of_ours_has_a_help_text(cls):
    inherited = {field.name for field in dataclasses.fields(SFTConfig)}
    for field in dataclasses.fields(cls):
        if field.name not in inherited:
            assert field.metadata.get("help", "").endswith("."), f"{cls.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("prefix", "cls"),
    [
        ("elicitation_", config.ElicitationConfig),
        ("posterior_", config.PosteriorConfig),
        ("confidence_", config.ConfidenceConfig),
        ("forget_", config.SelectionConfig),
    ],
)
def test_every_stage_field_can_be_set_through_lwf_config(prefix, cls):
    ours = {field.name for field in dataclasses.fields(config.LWFConfig)}
    for field in dataclasses.fields(cls):
        assert field.name == "seed" or f"{prefix}{field.name}" in ours, field.name


def test_public_names_are_importable_and_documented():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in graceful_forgetting.__all__:
        assert getattr(graceful_forgetting, name).__doc__, name
    for name in ("LWFConfig", "LWFTrainer", "elicit_self_knowledge", "estimate_posterior", "score_confidence"):
        assert name in readme
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = graceful_forgetting.nothing


def test_files_named_in_the_readme_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!https?://)([^)#]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_readme_can_be_read_in_three_minutes():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) <= 100
    assert max(map(SENTENCES["words"], SENTENCES["sentences"](readme))) <= 40


@pytest.mark.parametrize("name", PAGES_TO_READ)
def test_sentences_are_short(name):
    assert SENTENCES["mean_length"]((ROOT / name).read_text(encoding="utf-8")) < 25


@pytest.mark.parametrize("name", PAGES_TO_READ[1:])
def test_a_page_opens_with_a_summary(name):
    """At most ten lines of text come before the first heading, table, list of steps or code."""
    text = (ROOT / name).read_text(encoding="utf-8")
    opening = re.split(r"^(?:#|```|\||<|!!!)", text.split("\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0].strip()
    assert 2 <= sum(map(bool, opening.splitlines())) <= 10


def test_length_of_sentences_counts_prose_alone():
    page = (
        "# A heading of five words\n\nTwo words. Three `x = 1` [words](a/b.md) here!\n\n"
        "| a | table |\n|---|---|\n\n```bash\nmake demo.\n```\n\n"
        "- An entry without a full stop\n- One that **ends**: .2 nats.\n"
    )
    assert [SENTENCES["words"](one) for one in SENTENCES["sentences"](page)] == [2, 4, 5]


def test_what_the_page_on_trl_names_as_tested_is_a_test():
    page = (ROOT / "docs" / "how-to" / "trl.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_[a-z_]+)`", page))
    assert len(named) > 8
    assert named <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}


def test_advice_after_an_early_reference_run_is_that_of_the_archives():
    some = [one for one in early_outcomes() if one.share > 0]
    assert len(some) == advice.EARLY_RUNS
    assert round(fmean(one.kept for one in some), 2) == advice.EARLY_KEPT
    assert round(100 * fmean(one.gain for one in some), 1) == advice.EARLY_GAIN
