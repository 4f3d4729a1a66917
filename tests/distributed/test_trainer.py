"""Two gloo processes on the CPU, under DDP and FSDP2, give what one process with the doubled batch gives."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file

from graceful_forgetting.cli.launching import find_config
from graceful_forgetting.posterior import LearningPosterior

SCRIPT = Path(__file__).with_name("trainer_cases.py")
ACCELERATE = ("-m", "accelerate.commands.launch", "--config_file")
METHODS = {
    "unlearn_schedule": "joint",
    "unlearn_objective": "npo",
    "unlearn_retain_weight": 0.5,
    "confidence_scorer": "loss",
    "baseline": "l2_sp",
    "baseline_weight": 1.0,
}
# Gradients of several passes, several terms, and two ways to read the logits.
JOINT = {
    "unlearn_schedule": "joint",
    "unlearn_objective": "npo",
    "unlearn_retain_weight": 0.5,
    "unlearn_gradient_accumulation_steps": 2,
    "confidence_scorer": "loss",
}
# F and α that do not follow the formula's defaults; the reference run has been on the same module before.
AT_BASE = {
    "posterior_fisher_at": "base",
    "posterior_estimator": "empirical",
    "confidence_step_size_rule": "crossover",
}
UNIFORM = {"unlearn_objective": "uniform", "unlearn_gradient_accumulation_steps": 2}
# Ascent on what is learned: with held-out rows of it, the model falls back to the weights of the reference run.
HARMFUL = {"unlearn_learning_rate": 3e-2, "unlearn_objective": "gradient_ascent", "guard_margin": None}
# Mostly more of the learning itself, by the retained rows: better than the reference run.
HELPFUL = {"forget_fraction": 0.1, "unlearn_retain_weight": 10.0, "unlearn_learning_rate": 3e-3, "guard_margin": None}


def case(forgetting: str, settings: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    plain = {"forgetting": forgetting, "settings": settings or {}, "model": "model", "lora": False}
    return plain | {"resume": False, "held_out": False} | changes


CASES = {
    "scored": case("scored", resume=True),
    "prompts": case("prompts"),
    "lora": case("prompts", lora=True, resume=True),
    "tied": case("scored", UNIFORM, model="tied"),
    "joint": case("prompts", JOINT),
    "at base": case("prompts", AT_BASE),
    "worse": case("learning", HARMFUL, held_out=True),
    "worse-lora": case("learning", HARMFUL, held_out=True, lora=True),
    "better": case("learning", HELPFUL, held_out=True),
}
DDP_ONLY = {
    "methods": case("prompts", METHODS),
    "trials": case("learning", HELPFUL | {"forget_trials": "during"}, held_out=True),
}
# The only process of a launch of one, and those of a launch of two.
PROCESSES = ("process-0.json", "process-0.json", "process-1.json")
WEIGHTS = {True: "adapter_model.safetensors", False: "model.safetensors"}


@pytest.fixture
def folder(tmp_path, make_model, tokenizer, learning, forgetting) -> Path:
    make_model().save_pretrained(tmp_path / "model")
    make_model(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    tokenizer.save_pretrained(tmp_path / "model")
    scored = [{**row, "forgetting_confidence": float(i)} for i, row in enumerate(forgetting)]
    prompts = [{"prompt": row["prompt"]} for row in forgetting]
    rows = {"learning": learning.to_list(), "scored": scored, "prompts": prompts}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return tmp_path


def record(run: Path) -> dict[str, Any]:
    return json.loads((run / "record.json").read_text())


def logged(run: Path) -> list[dict[str, float]]:
    return [entry for entry in record(run)["log"] if "loss" in entry]


def assert_equal_up_to_rounding(one: Path, two: Path, weights: str) -> None:
    for left, right in zip(logged(one), logged(two), strict=True):
        assert left.keys() == right.keys()
        names = {"loss", "grad_norm", "unlearn_loss", "unlearn_grad_norm", "unlearn_updates", "baseline_loss"}
        for name in names & left.keys():
            assert left[name] == pytest.approx(right[name], rel=2e-3), (one, left["step"], name)
    left, right = (load_file(run / weights) for run in (one, two))
    # transformers saves a tied head once, and what FSDP gathered of it twice.
    assert right.keys() - left.keys() <= {"lm_head.weight"}
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-3, atol=1e-4)


def prepared(run: Path) -> tuple[LearningPosterior, float]:
    """The posterior of a run and the one α of its scores."""
    folder = run / "preparation"
    (step,) = set(load_from_disk(str(folder / "scores" / "rows"))["step_size"])
    return LearningPosterior.from_pretrained(folder / "posterior" / "posterior"), step


def trials(run: Path) -> dict[str, Any]:
    """What the trial runs of a run said."""
    return json.loads((run / "preparation" / "selection" / "selection.json").read_text())["trials"]


def assert_same_decision(one: Path, two: Path, weights: str, falls_back: bool) -> None:
    """On both processes as on one, and what was decided is what is left of the model."""
    left, *right = (json.loads((run / name).read_text()) for run, name in zip((one, two, two), PROCESSES, strict=True))
    assert right[0] == right[1]
    for decided in (left["guard"], right[0]["guard"]):
        assert decided["fell_back"] == falls_back
        for name in ("held_out_loss", "plain_held_out_loss"):
            assert decided[name] == pytest.approx(left["guard"][name], rel=1e-3)
    saved, reference = (load_file(folder / weights) for folder in (two, two.parent / "preparation" / "plain"))
    assert all(torch.equal(saved[name], tensor) for name, tensor in reference.items()) == falls_back


def test_two_processes_equal_one_and_resumed_is_uninterrupted(folder, python):
    every = CASES | DDP_ONLY
    for name, cases in (("one", every), ("ddp", every), ("fsdp2", CASES)):
        launcher = [] if name == "one" else [*ACCELERATE, str(find_config(name))]
        python(*launcher, str(SCRIPT), str(folder), str(folder / name), json.dumps(cases))
    for kind, topology, cases in (("ddp", "MULTI_CPU", every), ("fsdp2", "FSDP", CASES)):
        for name, content in cases.items():
            run, weights = folder / kind / name, WEIGHTS[content["lora"]]
            assert record(run / "final")["topology"] == f"DistributedType.{topology}"
            assert_equal_up_to_rounding(folder / "one" / name / "final", run / "final", weights)
            if content["held_out"]:
                falls_back = content["settings"] == HARMFUL
                assert_same_decision(folder / "one" / name / "final", run / "final", weights, falls_back)
            if content["resume"]:
                expected = load_file(run / "final" / weights)
                for parameter, tensor in load_file(run / "resumed" / weights).items():
                    assert torch.equal(tensor, expected[parameter]), (kind, name, parameter)
    alone, shared = (trials(folder / kind / "trials") for kind in ("one", "ddp"))
    assert shared["chosen"] == alone["chosen"] == "by score"
    assert shared["held_out_losses"] == pytest.approx(alone["held_out_losses"], rel=1e-3)
    one, *several = (prepared(folder / kind / "at base") for kind in ("one", "ddp", "fsdp2"))
    for posterior, step in several:
        # The reference runs differ by rounding, the Fisher information at θ_base hardly.
        assert step == pytest.approx(one[1], rel=1e-3)
        for parameter, precision in one[0].precision.items():
            found, scale = posterior.precision[parameter], float(precision.max())
            torch.testing.assert_close(found, precision, rtol=1e-5, atol=1e-6 * scale)
