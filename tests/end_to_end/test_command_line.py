"""`graceful` as a user types it: the whole run, its stages, reuse, interruption, bad recipes."""

import json
from pathlib import Path
from statistics import median

import pytest
from datasets import load_from_disk

from graceful_forgetting import LearningPosterior
from graceful_forgetting.cli import main
from graceful_forgetting.results.result import RunResult
from graceful_forgetting.training import price

STAGES = [
    "self_knowledge",
    "plain/seed-3",
    "posterior",
    "scores",
    "selection",
    "lwf/seed-3",
    "evaluation/base",
    "evaluation/plain-seed-3",
    "evaluation/lwf-seed-3",
]


def write_jsonl(path: Path, rows) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }} <eos> "
    "{% endgeneration %}{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


def stages_of(output: str) -> dict[str, str]:
    """Stage -> 'reused' or 'done', from the lines that a command printed."""
    found = {}
    for line in output.splitlines():
        name, _, rest = line.partition(": ")
        if rest.startswith(("reused", "done")):
            found[name] = rest.split()[0]
    return found


@pytest.mark.parametrize("flags", [[], ["--use_lora", "true", "--lora_r", "4"]], ids=["full", "lora"])
def test_run_makes_every_artefact_and_reuses_it(recipe, tmp_path, capsys, flags):
    assert main(["run", "--config", str(recipe), *flags]) == 0
    output = capsys.readouterr().out
    assert stages_of(output) == dict.fromkeys(STAGES, "done")
    run = tmp_path / "run"
    assert f"report: {run / 'report.html'}" in output
    assert "LWF − plain" in output

    knowledge = load_from_disk(str(run / "self_knowledge" / "rows"))
    assert {"prompt", "completion", "completion_tokens", "mean_log_probability", "finish_reason"} <= set(
        knowledge.column_names
    )
    scored = load_from_disk(str(run / "scores" / "rows"))
    selected = load_from_disk(str(run / "selection" / "rows"))
    assert len(selected) == round(0.5 * len(scored))
    assert set(scored["forgetting_task"]) == {"myths"}
    for row in scored:
        total = row["confidence_constant"] + row["confidence_linear"] + row["confidence_quadratic"]
        assert row["forgetting_confidence"] == pytest.approx(total)
    assert LearningPosterior.from_pretrained(run / "posterior" / "posterior").metadata["estimator"] == "sampled"
    for arm in ("plain", "lwf"):
        weights = "adapter_model.safetensors" if flags else "model.safetensors"
        assert (run / arm / "seed-3" / weights).is_file()
    assert not any((run / "work").rglob("checkpoint-*"))

    result = RunResult.load(run / "result.json")
    assert [(r.arm, r.seed) for r in result.runs] == [("base", None), ("plain", 3), ("lwf", 3)]
    assert result.runs[2].unlearn_updates == 3
    assert result.summary.tasks["arithmetic"].role == "learning"
    assert result.summary.tasks["myths"].arms["lwf"].n == 1
    assert result.selection is not None
    assert (result.selection.scored, result.selection.chosen) == (len(scored), len(selected))
    report = (run / "report.html").read_text()
    assert "<html" in report
    assert '<section id="answers">' in report

    assert main(["run", "--config", str(recipe), *flags]) == 0
    assert stages_of(capsys.readouterr().out) == dict.fromkeys(STAGES, "reused")


def test_a_changed_setting_redoes_only_what_depends_on_it(recipe, capsys):
    assert main(["run", "--config", str(recipe)]) == 0
    capsys.readouterr()
    assert main(["run", "--config", str(recipe), "--forget_fraction", "0.25"]) == 0
    redone = {name for name, status in stages_of(capsys.readouterr().out).items() if status == "done"}
    assert redone == {"selection", "lwf/seed-3", "evaluation/lwf-seed-3"}
    assert main(["select", "--config", str(recipe), "--forget_fraction", "0.25", "--force"]) == 0
    assert "reused" not in stages_of(capsys.readouterr().out).values()


def test_further_methods_are_arms_that_share_what_they_can(recipe, tmp_path, capsys):
    command = ["run", "--config", str(recipe), "--compare_with", "interference", "published"]
    assert main(command) == 0
    output = capsys.readouterr().out
    own = {f"interference/{name}" for name in ("posterior", "scores", "selection", "seed-3")}
    own |= {"interference/reference/seed-3", "evaluation/interference-seed-3", "evaluation/published-seed-3"}
    # The reference run of the published method is the whole one of the recipe's own.
    own |= {f"published/{name}" for name in ("posterior", "scores", "selection", "seed-3")}
    made = [line.split(": ")[0] for line in output.splitlines() if ": done in" in line]
    assert sorted(made) == sorted([*STAGES, *own])
    assert "arithmetic: interference − plain" in output
    assert "arithmetic: LWF as published − plain" in output
    run = tmp_path / "run"
    result = RunResult.load(run / "result.json")
    assert [r.arm for r in result.runs] == ["base", "plain", "lwf", "interference", "published"]
    assert {r.arm for r in result.runs if r.unlearn_updates} >= {"lwf", "published"}
    for arm, scorer in (("interference", "interference"), ("published", "lwf")):
        scored = load_from_disk(str(run / arm / "scores" / "rows"))
        assert {row is None for row in scored["confidence_quadratic"]} == {scorer == "interference"}
    assert "LWF as published" in (run / "report.html").read_text()

    assert main([*command[:3], "--compare_with", "published"]) == 0
    assert set(stages_of(capsys.readouterr().out).values()) == {"reused"}
    # Beside them, what the command finds in the folder of the run is what the recipe alone makes.
    assert main(["advise", "--config", str(recipe)]) == 0
    assert main([*command[:3], "--compare_with", "lwf"]) == 2
    assert "Set method='lwf'" in capsys.readouterr().err


def test_single_stages_share_the_directory(recipe, capsys):
    made = []
    for command in ("elicit", "posterior", "score", "select", "train", "evaluate", "report"):
        assert main([command, "--config", str(recipe)]) == 0
        made.append({name for name, status in stages_of(capsys.readouterr().out).items() if status == "done"})
    assert made == [
        {"self_knowledge"},
        {"plain/seed-3", "posterior"},
        {"scores"},
        {"selection"},
        {"lwf/seed-3"},
        {"evaluation/base", "evaluation/plain-seed-3", "evaluation/lwf-seed-3"},
        set(),
    ]


def test_interrupted_training_continues_at_its_checkpoint(recipe, tmp_path, capsys, monkeypatch):
    from graceful_forgetting.training.trainer import LWFTrainer

    assert main(["run", "--config", str(recipe), "--output_dir", str(tmp_path / "whole")]) == 0
    original = LWFTrainer.training_step

    def interrupt(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(LWFTrainer, "training_step", interrupt)
    assert main(["run", "--config", str(recipe)]) == 130
    assert "the same command continues" in capsys.readouterr().err
    monkeypatch.setattr(LWFTrainer, "training_step", original)
    assert main(["run", "--config", str(recipe)]) == 0
    output = capsys.readouterr().out
    assert stages_of(output)["plain/seed-3"] == "reused"
    assert "resumed from checkpoint-3" in output
    for name in ("model.safetensors",):
        whole, resumed = ((tmp_path / run / "lwf" / "seed-3" / name).read_bytes() for run in ("whole", "run"))
        assert whole == resumed


def test_a_recipe_of_messages_and_three_forgetting_answers(tmp_path, recipe, tokenizer, model_folder, capsys):
    """Conversational data of one's own go through the chat template in every stage."""
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
    tokenizer.save_pretrained(model_folder)

    def chat(prompt, answer=None):
        turns = [{"role": "user", "content": prompt}]
        return {"messages": turns + ([{"role": "assistant", "content": answer}] if answer else [])}

    write_jsonl(tmp_path / "arithmetic" / "train.jsonl", [chat(f"w{i} w{i + 1}", f"w{i + 30}") for i in range(16)])
    write_jsonl(tmp_path / "arithmetic" / "test.jsonl", [chat(f"w{i} w{i + 2}", f"w{i + 30}") for i in range(4)])
    write_jsonl(tmp_path / "myths" / "train.jsonl", [chat(f"w{i} w{i + 3}") for i in range(6)])
    (tmp_path / "myths" / "test.jsonl").unlink()
    assert main(["run", "--config", str(recipe)]) == 0
    assert "arithmetic" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags",
    [
        ["--confidence_scorer", "loss"],
        [
            "--confidence_scorer",
            "linear",
            "--confidence_step_size_rule",
            "line_search",
            "--posterior_parameters",
            "last_blocks:1",
        ],
    ],
    ids=["loss", "linear"],
)
def test_other_scorers_reach_the_report(recipe, tmp_path, capsys, flags):
    assert main(["run", "--config", str(recipe), *flags]) == 0
    output = capsys.readouterr().out
    assert ("posterior" in stages_of(output)) == ("linear" in flags)
    assert "samples in 1 batches: about" in output
    run = tmp_path / "run"
    scored = load_from_disk(str(run / "scores" / "rows"))
    assert scored["forgetting_confidence"] == scored["loss" if "loss" in flags else "confidence_linear"]
    result = RunResult.load(run / "result.json")
    assert (result.provenance.posterior_fingerprint is None) == ("loss" in flags)
    assert (result.selection.step_size is None) == ("loss" in flags)
    assert not (run / "work" / "scores").exists()
    assert "<html" in (run / "report.html").read_text()


def test_what_reads_no_fisher_information_has_none_estimated(recipe, tmp_path, capsys):
    """Another scorer has it estimated at the same reference run."""
    run = tmp_path / "run"
    flags = ["--confidence_scorer", "interference"]
    assert main(["run", "--config", str(recipe), *flags]) == 0
    assert "estimator none" in capsys.readouterr().out
    assert not LearningPosterior.from_pretrained(run / "posterior" / "posterior").has_fisher
    assert RunResult.load(run / "result.json").provenance.posterior_fingerprint is not None
    assert main(["score", "--config", str(recipe)]) == 0
    assert stages_of(capsys.readouterr().out) == {
        "self_knowledge": "reused",
        "plain/seed-3": "reused",
        "posterior": "done",
        "scores": "done",
    }
    assert LearningPosterior.from_pretrained(run / "posterior" / "posterior").has_fisher
    for command in ("score", "advise"):
        assert main([command, "--config", str(recipe), *flags]) == 0


DEFAULTS = ["--confidence_scorer", "interference", "--reference_fraction", "0.3"]
DEFAULTS += ["--forget_strategy", "relative", "--forget_threshold", "0.0001"]


def test_advice_reads_the_losses_that_token_interference_has_measured(recipe, tmp_path, capsys):
    """The scores hold both losses of each sample: no second pass for what learning does to them."""
    recipe.write_text(recipe.read_text().replace("forget_fraction: 0.5\n", ""))
    flags = ["--confidence_scorer", "token_interference", "--reference_fraction", "0.3"]
    flags += ["--forget_strategy", "relative", "--forget_threshold", "0.0001"]
    assert main(["advise", "--config", str(recipe), *flags]) == 0
    output = capsys.readouterr().out
    assert "mean change of the loss of chosen samples by learning, nats per token" in output
    assert not (tmp_path / "run" / "effect_of_learning").exists()
    scored = load_from_disk(str(tmp_path / "run" / "scores" / "rows"))
    assert all(0 <= score <= 1 for score in scored["forgetting_confidence"])
    assert max(scored["forgetting_confidence"]) > 0


def test_advice_of_a_run_directory_is_that_of_its_recipe_and_says_what_came_of_it(recipe, tmp_path, capsys):
    """Under the defaults too, and of a finished run what it measured."""
    recipe.write_text(recipe.read_text().replace("forget_fraction: 0.5\n", ""))
    assert main(["select", "--config", str(recipe), *DEFAULTS]) == 0
    capsys.readouterr()
    assert main(["advise", "--config", str(recipe), *DEFAULTS]) == 0
    output = capsys.readouterr().out
    assert set(stages_of(output).values()) == {"reused"}
    assert not (tmp_path / "run" / "effect_of_learning").exists()
    before = output[output.index("\n\n") :].strip() if "\n\n" in output else output
    assert main(["advise", "--output_dir", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out.strip()
    assert before.endswith(text)
    assert "scores reach" in text
    assert "of the learning task's loss" in text
    assert "What came of this run" not in text

    assert main(["run", "--config", str(recipe), *DEFAULTS]) == 0
    capsys.readouterr()
    assert main(["advise", "--output_dir", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "What came of this run: forgetting by interference − plain on arithmetic: " in text
    assert "1 seed; plain " in text


def test_advice_names_what_it_can_judge(tmp_path, capsys):
    assert main(["advise"]) == 2
    assert "--output_dir" in capsys.readouterr().err
    assert main(["advise", "--output_dir", str(tmp_path)]) == 2
    assert "holds no stage 'scores'" in capsys.readouterr().err


def test_the_settings_of_the_scoring_study_in_a_recipe(recipe, tmp_path, capsys, make_model):
    """F empirical at θ_base, α at the median crossover; changed on their own they redo what depends on them."""
    recipe.write_text(recipe.read_text() + "posterior_estimator: empirical\nposterior_fisher_at: base\n")
    flags = ["--confidence_step_size_rule", "crossover"]
    assert main(["run", "--config", str(recipe), *flags]) == 0
    assert "times the median crossover of the samples" in capsys.readouterr().out
    run = tmp_path / "run"
    posterior = LearningPosterior.from_pretrained(run / "posterior" / "posterior", model=make_model())
    assert (posterior.metadata["fisher_at"], posterior.metadata["estimator"]) == ("base", "empirical")
    scored = load_from_disk(str(run / "scores" / "rows"))
    result = RunResult.load(run / "result.json")
    assert set(scored["step_size"]) == {result.selection.step_size} == {median(scored["step_size_crossover"])}
    assert result.config["posterior_fisher_at"] == "base"

    assert main(["score", "--config", str(recipe)]) == 0
    assert stages_of(capsys.readouterr().out) == {
        "self_knowledge": "reused",
        "plain/seed-3": "reused",
        "posterior": "reused",
        "scores": "done",
    }
    fixed = load_from_disk(str(run / "scores" / "rows"))
    assert fixed["step_size_crossover"] == scored["step_size_crossover"]
    assert set(fixed["step_size"]) == {1.0}
    assert main(["posterior", "--config", str(recipe), "--posterior_fisher_at", "reference"]) == 0
    assert stages_of(capsys.readouterr().out) == {"plain/seed-3": "reused", "posterior": "done"}
    again = LearningPosterior.from_pretrained(run / "posterior" / "posterior")
    assert again.metadata["fisher_at"] == "reference"
    assert again.metadata["trace"] != posterior.metadata["trace"]


def test_one_file_to_learn_and_one_to_forget_without_test_rows(recipe, tmp_path, capsys):
    """The quickstart's example for data of one's own: nothing can be evaluated, everything else is done and said."""
    learn = tmp_path / "arithmetic" / "train.jsonl"
    forget = tmp_path / "myths" / "train.jsonl"
    flags = ["--learning_task", str(learn), "--forgetting_tasks", str(forget)]
    assert main(["run", "--config", str(recipe), *flags]) == 0
    captured = capsys.readouterr()
    assert "Nothing was evaluated on what is learned" in captured.out
    assert "16 self-generated samples scored, 8 selected" in captured.out
    result = RunResult.load(tmp_path / "run" / "result.json")
    assert result.summary.tasks == {}
    assert result.runs[2].unlearn_updates == 3
    assert (tmp_path / "run" / "report.html").is_file()


def test_packed_conversations_of_which_the_assistant_counts(recipe, tmp_path, model_folder, tokenizer, learning):
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model_folder)
    turns = (("user", "prompt"), ("assistant", "completion"))
    rows = [{"messages": [{"role": role, "content": row[name].strip()} for role, name in turns]} for row in learning]
    write_jsonl(tmp_path / "arithmetic" / "train.jsonl", rows)
    write_jsonl(tmp_path / "arithmetic" / "test.jsonl", rows[:6])
    flags = ["--packing", "true", "--max_length", "32", "--assistant_only_loss", "true", "--num_train_epochs", "1"]
    assert main(["run", "--config", str(recipe), "--max_steps", "-1", *flags]) == 0
    run = tmp_path / "run"
    # As few learning updates as packed rows make, and a Fisher information of single examples.
    updates = json.loads((run / "plain" / "seed-3" / "training_log.json").read_text())[-1]["step"]
    assert updates < len(rows) / 8
    assert LearningPosterior.from_pretrained(run / "posterior" / "posterior").metadata["num_samples"] == len(rows)


def test_the_price_is_said_before_the_first_stage_and_changes_nothing(recipe, tmp_path, capsys, monkeypatch):
    folders = [tmp_path / "quiet", tmp_path / "priced"]
    outputs = []
    for folder in folders:
        main(["run", "--config", str(recipe), "--output_dir", str(folder)])
        outputs.append(capsys.readouterr().out)
        monkeypatch.setattr(price, "SHORT", 0.0)
        monkeypatch.setattr(price, "FEW_OPERATIONS", 0.0)
    assert "ahead: about" not in outputs[0]
    before = outputs[1].partition("self_knowledge: running")[0]
    for stage in ("self-knowledge", "posterior", "scores", "plain fine-tuning", "with unlearning", "evaluation of lwf"):
        assert stage in before
    weights = [next((folder / "lwf").glob("seed-*")) / "model.safetensors" for folder in folders]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # Everything is there.
    main(["run", "--config", str(recipe), "--output_dir", str(folders[1])])
    assert "ahead: about" not in capsys.readouterr().out
