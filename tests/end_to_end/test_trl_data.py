"""Every type of data set that TRL takes, for learning and for forgetting, through `LWFTrainer` to its last update."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from chat_tokenizers import llama3_like, qwen3_like
from formula import FORMULA
from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data.learning_rows import single_examples
from graceful_forgetting.gradients.oracle import oracle_fisher
from graceful_forgetting.posterior.fisher import estimate_fisher

QUIET: dict[str, Any] = {
    "bf16": False,
    "activation_checkpointing": False,
    "disable_tqdm": True,
    "save_strategy": "no",
    "report_to": "none",
}
PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ '<bos> ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos> ' }}{% endif %}"
)
# The same text, with marks around what the assistant says.
TEMPLATE = (
    "{% for m in messages %}{{ '<bos> ' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + ' <eos> ' }}{% endgeneration %}{% else %}{{ m['content'] + ' <eos> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos> ' }}{% endif %}"
)


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text.strip()}


def as_type(kind: str, rows: Dataset, tokenizer: PreTrainedTokenizerFast) -> Dataset:
    """The prompt/completion rows in the form of another type."""

    def convert(row: dict[str, str]) -> dict[str, Any]:
        prompt, completion = row["prompt"], row["completion"]
        messages = [message("user", prompt)], [message("assistant", completion)]
        ids, length = tokenizer(prompt + completion)["input_ids"], len(tokenizer(prompt)["input_ids"])
        mask = [0] * length + [1] * (len(ids) - length)
        return {
            "text": {"text": prompt + completion},
            "messages": {"messages": [*messages[0], *messages[1]]},
            "prompt_completion": row,
            "conversational_prompt_completion": {"prompt": messages[0], "completion": messages[1]},
            "input_ids": {"input_ids": ids},
            "labels": {"input_ids": ids, "labels": [-100] * length + ids[length:]},
            "completion_mask": {"input_ids": ids, "completion_mask": mask},
            "assistant_masks": {"input_ids": ids, "assistant_masks": mask},
            "prompts": {"prompt": prompt},
            "conversational_prompts": {"prompt": messages[0]},
        }[kind]

    return Dataset.from_list([convert(row) for row in rows])


TYPES = [
    "text",
    "messages",
    "prompt_completion",
    "conversational_prompt_completion",
    "input_ids",
    "labels",
    "completion_mask",
    "assistant_masks",
]


@pytest.fixture
def tokenizer(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def build(
    tmp_path: Path, make_model: Any, tokenizer: PreTrainedTokenizerFast, learning: Dataset, forgetting: Dataset
) -> Callable[..., LWFTrainer]:
    def make(
        train_dataset: Any = learning, forget_dataset: Any = forgetting, folder: str = "run", **settings: Any
    ) -> LWFTrainer:
        given = {"max_steps": 4, "learning_rate": 3e-3, "per_device_train_batch_size": 4, "unlearn_every": 2}
        given |= {"per_device_unlearn_batch_size": 4, "forget_fraction": 0.5, "elicitation_max_new_tokens": 4}
        args = LWFConfig(str(tmp_path / folder), **{**FORMULA, **QUIET, **given, **settings})
        return LWFTrainer(
            make_model(),
            args,
            train_dataset=train_dataset,
            forget_dataset=forget_dataset,
            processing_class=tokenizer,
        )

    return make


def labels(rows: Any) -> list[list[int]]:
    return [row["labels"] for row in rows]


def prepared_by_trl(tmp_path: Path, make_model: Any, tokenizer: Any, rows: Dataset, **settings: Any) -> Dataset:
    args = SFTConfig(str(tmp_path / "trl"), **{**QUIET, **settings})
    return SFTTrainer(make_model(), args, train_dataset=rows, processing_class=tokenizer).train_dataset


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_learned_and_forgotten(tmp_path, make_model, tokenizer, build, learning, forgetting, kind):
    """Whole runs; what is scored and unlearned has the tokens and labels that TRL would train on."""
    # TRL reads a given `completion_mask` only when told to.
    settings = {"completion_only_loss": True} if kind == "completion_mask" else {}
    pool = as_type(kind, forgetting, tokenizer)
    trainer = build(as_type(kind, learning, tokenizer), pool, **settings)
    trainer.train()
    expected = prepared_by_trl(tmp_path, make_model, tokenizer, pool, **settings)
    scored = trainer.preparation.scored
    assert labels(scored) == labels(expected)
    assert scored["input_ids"][:] == expected["input_ids"][:]
    assert len(set(scored["forgetting_confidence"])) > 8
    assert trainer.unlearning_summary()["updates"] == 1
    assert trainer.state.global_step == 4
    assert trainer._updates.samples["labels"][:] == trainer.preparation.selected["labels"][:]


@pytest.mark.parametrize("kind", ["prompts", "conversational_prompts"])
def test_prompts_are_answered_whatever_is_learned(tokenizer, build, learning, forgetting, kind):
    trainer = build(as_type("messages", learning, tokenizer), as_type(kind, forgetting, tokenizer))
    trainer.train()
    for row in trainer.preparation.scored:
        ids = tokenizer(f"<bos> {row['prompt'][0]['content']} <eos> <bos>")["input_ids"]
        assert row["input_ids"][: len(ids)] == ids
        assert row["labels"] == [-100] * len(ids) + row["input_ids"][len(ids) :]
    assert trainer.unlearning_summary()["updates"] == 1


@pytest.mark.parametrize("make_tokenizer", [qwen3_like, llama3_like])
@pytest.mark.parametrize("answers", [False, True])
def test_text_is_forgotten_in_the_form_of_what_is_learned(tmp_path, make_model, make_tokenizer, answers):
    """Plain text beside conversations is what the same text in turns is; beside text it is text."""
    tokenizer, cities = make_tokenizer(), {"France": "Paris", "Italy": "Rome", "Peru": "Lima", "Spain": "Madrid"}
    turns = [{"prompt": [message("user", f"The capital of {land} is")]} for land in cities]
    texts = [{"prompt": f"The capital of {land} is"} for land in cities]
    if answers:
        turns = [
            {**row, "completion": [message("assistant", c)]} for row, c in zip(turns, cities.values(), strict=True)
        ]
        texts = [{**row, "completion": f" {city}"} for row, city in zip(texts, cities.values(), strict=True)]
    talked = [{"messages": [message("user", "capital?"), message("assistant", land)]} for land in cities]
    written = [{"prompt": "capital?", "completion": f" {land}"} for land in cities]

    def prepared(learned, forgotten, name):
        args = {**FORMULA, **QUIET, "max_steps": 2, "elicitation_max_new_tokens": 4, "per_device_unlearn_batch_size": 1}
        model = make_model(vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
        data = {"train_dataset": Dataset.from_list(learned), "forget_dataset": Dataset.from_list(forgotten)}
        trainer = LWFTrainer(model, LWFConfig(str(tmp_path / name), **args), processing_class=tokenizer, **data)
        return trainer.prepare_unlearning().scored.to_list()

    own = prepared(talked, texts, "own")
    assert own == prepared(talked, turns, "turns")
    plain = prepared(written, texts, "plain")
    assert plain[0]["prompt"] == texts[0]["prompt"]
    # What has been through the template stays.
    asked = [tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True) for row in turns]
    if not answers:
        by_hand = prepared(talked, [{"prompt": text} for text in asked], "by_hand")
        assert [row["prompt"] for row in by_hand] == asked[: len(by_hand)]


def test_text_in_a_column_of_another_name(tokenizer, build, learning, forgetting):
    rows = [as_type("text", part, tokenizer).rename_column("text", "document") for part in (learning, forgetting)]
    trainer = build(*rows, dataset_text_field="document")
    trainer.train()
    ids = tokenizer(forgetting[0]["prompt"] + forgetting[0]["completion"] + " <eos>")["input_ids"]
    assert trainer.preparation.scored[0]["labels"] == ids


@pytest.mark.parametrize("kind", ["messages", "conversational_prompt_completion"])
def test_assistant_only_loss_holds_for_both_sides(tmp_path, make_model, tokenizer, build, learning, forgetting, kind):
    pool = as_type(kind, forgetting, tokenizer)
    trainer = build(as_type(kind, learning, tokenizer), pool, assistant_only_loss=True)
    trainer.train()
    expected = prepared_by_trl(tmp_path, make_model, tokenizer, pool, assistant_only_loss=True)
    assert labels(trainer.preparation.scored) == labels(expected)
    said = [[token for token in row if token != -100] for row in labels(trainer.preparation.scored)]
    assert tokenizer.batch_decode(said) == [f"{row['completion'].strip()} <eos>" for row in forgetting]
    assert trainer.unlearning_summary()["updates"] == 1


def test_a_template_without_marks_is_refused_before_any_work(tmp_path, tokenizer, build, learning):
    tokenizer.chat_template = PLAIN_TEMPLATE
    with pytest.raises(ValueError, match="chat template is not training-compatible"):
        build(as_type("messages", learning, tokenizer), assistant_only_loss=True)
    assert not (tmp_path / "run" / "preparation").exists()


def test_what_trl_refuses_it_refuses_here(tokenizer, build, learning):
    with pytest.raises(ValueError, match="the dataset is not conversational"):
        build(assistant_only_loss=True)
    with pytest.raises(ValueError, match="with_transform"):
        build(as_type("labels", learning, tokenizer).with_transform(lambda rows: rows))


def test_a_template_from_a_file_is_that_of_both_sides(tmp_path, tokenizer, build, learning, forgetting):
    file = tmp_path / "template.jinja"
    file.write_text(TEMPLATE.replace("<bos>", "<unk>"))
    rows = [as_type("messages", part, tokenizer) for part in (learning, forgetting)]
    trainer = build(*rows, chat_template_path=str(file))
    trainer.train()
    for part in (trainer.train_dataset, trainer.preparation.scored):
        assert {row["input_ids"][0] for row in part} == {tokenizer.unk_token_id}


def test_completion_only_loss_off_is_about_what_is_learned(build, learning, forgetting):
    """Prompts are learned then, and still not unlearned: they are the user's words, not the model's knowledge."""
    trainer = build(completion_only_loss=False)
    trainer.train()
    assert all(-100 not in row for row in labels(trainer.train_dataset))
    assert all(row[0] == -100 for row in labels(trainer.preparation.scored))


# Packing -------------------------------------------------------------------------------------------------------------


def by_content(rows: Dataset) -> list[tuple[list[int], list[int]]]:
    return sorted((row["input_ids"], row["labels"]) for row in rows)


@pytest.mark.parametrize("strategy", ["bfd", "bfd_split"])
def test_packed_rows_are_scored_as_single_examples(tmp_path, build, strategy):
    trainer = build(packing=True, packing_strategy=strategy, max_length=24, posterior_estimator="empirical")
    assert len(trainer.train_dataset) < 24
    examples = single_examples(trainer.train_dataset)
    assert by_content(examples) == by_content(build(folder="apart").train_dataset)
    posterior = trainer.prepare_unlearning().posterior
    reference = type(trainer.model).from_pretrained(tmp_path / "run" / "preparation" / "plain")
    for name, parameter in reference.named_parameters():
        assert torch.equal(posterior.mean[name], parameter), name
    expected = oracle_fisher(reference, examples)
    for name, precision in posterior.precision.items():
        torch.testing.assert_close(precision, expected[name], rtol=1e-4, atol=1e-9)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 1


@pytest.mark.parametrize("settings", [{"packing": True, "max_length": 24}, {"padding_free": True, "max_length": None}])
def test_the_reference_run_of_packed_rows_is_trls_own_run(tmp_path, make_model, tokenizer, build, learning, settings):
    posterior = build(**settings).prepare_unlearning().posterior
    args = {"max_steps": 4, "learning_rate": 3e-3, "per_device_train_batch_size": 4}
    plain = SFTTrainer(
        make_model(),
        SFTConfig(str(tmp_path / "plain"), **QUIET, **args, **settings),
        train_dataset=learning,
        processing_class=tokenizer,
    )
    plain.train()
    for name, parameter in plain.model.named_parameters():
        assert torch.equal(posterior.mean[name], parameter), name


def test_packing_with_an_objective_and_a_scorer_that_read_learning_rows(build):
    trainer = build(
        packing=True,
        max_length=24,
        unlearn_objective="gradient_difference",
        confidence_scorer="gradient_cosine",
        unlearn_retain_weight=0.5,
    )
    trainer.train()
    assert by_content(trainer._updates.learning) == by_content(single_examples(trainer.train_dataset))
    assert trainer.unlearning_summary()["updates"] == 1


def test_wrapped_packing_is_refused_unless_scores_are_given(build, forgetting):
    wrapped = {"packing": True, "packing_strategy": "wrapped", "max_length": 24}
    with pytest.raises(ValueError, match="packing_strategy='wrapped' cuts across learning examples"):
        build(**wrapped)
    scored = forgetting.add_column("forgetting_confidence", [float(i) for i in range(len(forgetting))])
    with pytest.raises(ValueError, match="packing_strategy='wrapped' cuts across learning examples"):
        build(forget_dataset=scored, unlearn_objective="gradient_difference", **wrapped)
    trainer = build(forget_dataset=scored, **wrapped)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 1


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"packing": True, "max_length": 24}])
def test_a_stream_is_scored_by_its_first_rows(tmp_path, build, learning, settings):
    trainer = build(
        learning.to_iterable_dataset(), posterior_num_samples=6, posterior_estimator="empirical", **settings
    )
    assert isinstance(trainer.train_dataset, IterableDataset)
    posterior = trainer.prepare_unlearning().posterior
    whole = build(learning, folder="whole", posterior_estimator="empirical", **settings)
    reference = type(trainer.model).from_pretrained(tmp_path / "run" / "preparation" / "plain")
    rows = single_examples(whole.train_dataset.select(range(min(6, len(whole.train_dataset)))))
    assert posterior.metadata["num_samples"] == 6
    expected = estimate_fisher(reference, rows, trainer.args.posterior_config())
    for name, precision in posterior.precision.items():
        torch.testing.assert_close(precision, expected[name], rtol=1e-4, atol=1e-9)
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 1


def test_a_stream_without_a_number_of_rows_is_refused_where_it_is_scored(build, learning, forgetting):
    stream = learning.to_iterable_dataset()
    with pytest.raises(ValueError, match="a streaming train_dataset needs posterior_num_samples"):
        build(stream)
    with pytest.raises(ValueError, match="streaming train_dataset cannot be used with baseline='l2_sp'"):
        build(stream, baseline="l2_sp", posterior_num_samples=4)
    with pytest.raises(ValueError, match="unlearn_objective='gradient_difference', which read all learning rows"):
        build(stream, unlearn_objective="gradient_difference", posterior_num_samples=4)
    trainer = build(stream, confidence_scorer="loss")
    trainer.train()
    assert trainer.unlearning_summary()["updates"] == 1
