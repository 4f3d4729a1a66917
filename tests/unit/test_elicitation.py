"""Elicitation equals plain decoding one prompt at a time, and leaves no trace on the model."""

import logging
from collections.abc import Sequence

import pytest
import torch
from datasets import ClassLabel, Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from graceful_forgetting.config import ElicitationConfig
from graceful_forgetting.data import collate, tokenize_dataset
from graceful_forgetting.elicitation import elicit_self_knowledge, elicit_with_counts
from graceful_forgetting.generation import complete, generate_completions, make_requests
from graceful_forgetting.gradients.token_loss import sequence_losses

VOCABULARY = 40
PROMPTS = ["w3", "w4 w5 w6 w7 w8 w9 w10", "w11 w12", "w13 w14 w15", "w16 w17 w18 w19 w20", "w21 w22", "w30"]


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = [
        "<pad>",
        "<eos>",
        "<unk>",
        *(f"w{index}" for index in range(3, VOCABULARY - 2)),
        "user",
        "assistant",
    ]
    backend = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    return tokenizer


def make_model(kind: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A model with random weights, large enough that its answers vary and dropout would show."""
    torch.manual_seed(seed)
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    if kind == "gpt2":
        config = GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.4, **ids)
        return GPT2LMHeadModel(config).eval()
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.4,
        attention_dropout=0.5,
        **ids,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer()


@pytest.fixture
def model() -> PreTrainedModel:
    return make_model()


def prompt_rows(prompts: Sequence[str] = tuple(PROMPTS)) -> Dataset:
    return Dataset.from_list([{"prompt": prompt, "task": f"t{index}"} for index, prompt in enumerate(prompts)])


@torch.no_grad()
def decode_alone(model: PreTrainedModel, prompt: list[int], steps: int, stops: Sequence[int]) -> list[int]:
    """Greedy decoding of one prompt by whole forward passes: no padding, no cache."""
    ids = list(prompt)
    for _ in range(steps):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids[len(prompt) :]


def with_some_stops(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, steps: int) -> list[int]:
    """Give the model an EOS token that ends some answers early, none at once, and leaves others unended."""
    free = [decode_alone(model, tokenizer(prompt)["input_ids"], steps, ()) for prompt in PROMPTS]
    for token in range(3, VOCABULARY):
        ended = [token in answer for answer in free]
        if any(ended) and not all(ended) and not any(answer[0] == token for answer in free):
            model.generation_config.eos_token_id = [1, token]
            return [1, token]
    raise AssertionError("this seed gives no such token; choose another")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_batches_equal_one_by_one_decoding(kind, batch_size, tokenizer):
    model = make_model(kind)
    stops = with_some_stops(model, tokenizer, steps=6)
    config = ElicitationConfig(batch_size=batch_size, max_new_tokens=6)
    result = elicit_self_knowledge(model, tokenizer, prompt_rows(), config)
    assert result["prompt"][:] == PROMPTS
    for row in result:
        prompt = tokenizer(row["prompt"])["input_ids"]
        answer = decode_alone(model, prompt, 6, stops)
        stopped = answer[-1] in stops
        assert row["input_ids"] == prompt + answer
        assert row["labels"] == [-100] * len(prompt) + answer
        assert row["finish_reason"] == ("stop" if stopped else "length")
        assert row["completion_tokens"] == len(answer) - stopped
        assert row["completion"] == tokenizer.decode(answer[: len(answer) - stopped], skip_special_tokens=True)
    assert set(result["finish_reason"]) == {"stop", "length"}


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_mean_log_probability_is_minus_the_loss_of_a_plain_forward_pass(temperature, model, tokenizer):
    with_some_stops(model, tokenizer, steps=6)
    config = ElicitationConfig(max_new_tokens=6, temperature=temperature)
    result = elicit_self_knowledge(model, tokenizer, prompt_rows(), config)
    for row in result:
        prompt = len(tokenizer(row["prompt"])["input_ids"])
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            log_probabilities = model(ids[None]).logits[0].log_softmax(dim=-1)
        terms = [log_probabilities[t - 1, ids[t]] for t in range(prompt, len(ids))]
        assert row["mean_log_probability"] == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)
    batch = collate(list(tokenize_dataset(result)), 0)
    with torch.no_grad():
        losses = sequence_losses(model(batch["input_ids"], batch["attention_mask"]).logits, batch["labels"])
    assert losses.tolist() == pytest.approx([-value for value in result["mean_log_probability"]], rel=1e-5)


def test_conversational_prompts_go_through_the_chat_template(model, tokenizer):
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in PROMPTS[:3]])
    result = elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(max_new_tokens=4))
    plain = prompt_rows([f"user {text} assistant" for text in PROMPTS[:3]])
    expected = elicit_self_knowledge(model, tokenizer, plain, ElicitationConfig(max_new_tokens=4))
    assert result["input_ids"][:] == expected["input_ids"][:]
    assert [[{"role": "assistant", "content": text}] for text in expected["completion"]] == result["completion"][:]
    assert result["prompt"][:] == rows["prompt"][:]
    # TRL reads prompt and completion as one conversation, and makes the same tokens of it, up to the missing EOS.
    again = tokenize_dataset(result.select_columns(["prompt", "completion"]), tokenizer)
    assert [ids[: len(kept)] for ids, kept in zip(again["input_ids"], result["input_ids"], strict=True)] == result[
        "input_ids"
    ][:]


def test_other_columns_and_their_types_are_kept(model, tokenizer):
    rows = prompt_rows().add_column("answer", [0, 1, 0, 1, 0, 1, 0])
    rows = rows.cast_column("answer", ClassLabel(names=["no", "yes"]))
    result = elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(max_new_tokens=3))
    assert result.features["answer"] == rows.features["answer"]
    assert result.column_names[:3] == ["prompt", "task", "answer"]
    assert (
        dict(zip(result["prompt"], result["task"], strict=True)).items()
        <= dict(zip(rows["prompt"], rows["task"], strict=True)).items()
    )


def sampled(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, **settings) -> list[list[int]]:
    settings = {"max_new_tokens": 5, "temperature": 1.0} | settings
    return elicit_self_knowledge(model, tokenizer, prompt_rows(), ElicitationConfig(**settings))["input_ids"][:]


def test_sampling_depends_on_the_seed_and_not_on_the_batch(model, tokenizer):
    first = sampled(model, tokenizer, seed=1)
    assert sampled(model, tokenizer, seed=1) == first
    assert sampled(model, tokenizer, seed=1, batch_size=2) == first
    assert sampled(model, tokenizer, seed=2) != first
    assert sampled(model, tokenizer, temperature=0.0) != first


def test_a_low_temperature_narrows_the_distribution_to_the_greedy_choice(model, tokenizer):
    greedy = sampled(model, tokenizer, temperature=0.0)
    assert sampled(model, tokenizer, temperature=1e-4) == greedy


def test_sampled_frequencies_are_the_models_probabilities(model):
    rows = 4000
    config = ElicitationConfig(batch_size=rows, max_new_tokens=1, temperature=3.0)
    drawn = generate_completions(model, [[3, 4]] * rows, config, pad_token_id=0, eos_token_ids=[1])
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in drawn]), minlength=VOCABULARY).double()
    with torch.no_grad():
        expected = rows * (model(torch.tensor([[3, 4]])).logits[0, -1] / 3.0).softmax(-1).double()
    # Chi-squared over VOCABULARY - 1 degrees of freedom: mean 39, standard deviation below 9.
    assert float(((counts - expected) ** 2 / expected).sum()) < 39 + 6 * 9


def test_model_settings_mode_and_random_state_are_restored(model, tokenizer):
    expected = elicit_self_knowledge(model, tokenizer, prompt_rows(), ElicitationConfig(max_new_tokens=5))
    model.generation_config.update(do_sample=True, temperature=0.3, repetition_penalty=9.0, top_k=3)
    own = model.generation_config
    model.activation_checkpointing_enable()
    model.config.use_cache = False
    model.train()
    model.model.layers[0].eval()
    modes = {name: module.training for name, module in model.named_modules()}
    state = torch.get_rng_state()

    result = elicit_self_knowledge(model, tokenizer, prompt_rows(), ElicitationConfig(max_new_tokens=5))

    assert result.to_list() == expected.to_list()
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert model.generation_config is own
    assert own.repetition_penalty == 9.0
    assert model.config.use_cache is False
    assert model.is_activation_checkpointing
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_state_is_restored_after_a_failure(model, tokenizer, monkeypatch):
    own = model.generation_config
    model.train()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(ValueError, match="logits are not finite"):
        elicit_self_knowledge(model, tokenizer, prompt_rows(), ElicitationConfig(max_new_tokens=2))
    assert model.training
    assert model.generation_config is own


# PEFT 0.21 reads the property that transformers 5.23 renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_fresh_adapter_answers_as_its_base_model(model, tokenizer):
    config = ElicitationConfig(max_new_tokens=5)
    stops = with_some_stops(model, tokenizer, steps=5)
    expected = elicit_self_knowledge(model, tokenizer, prompt_rows(), config).to_list()
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
    adapted.train()
    answers = elicit_self_knowledge(adapted, tokenizer, prompt_rows(), config).to_list()
    for row, other in zip(answers, expected, strict=True):
        # The sums are formed in another order.
        assert row.pop("mean_log_probability") == pytest.approx(other.pop("mean_log_probability"), rel=1e-6)
        assert row == other
    assert adapted.training
    assert adapted.generation_config.eos_token_id == stops
    assert adapted.get_base_model().generation_config.eos_token_id == stops


def test_the_first_token_of_an_answer_never_ends_it(model, tokenizer):
    first = decode_alone(model, tokenizer(PROMPTS[1])["input_ids"], 1, ())[0]
    model.generation_config.eos_token_id = [1, first]
    for temperature in (0.0, 1e-4):
        result = elicit_self_knowledge(
            model, tokenizer, prompt_rows(), ElicitationConfig(max_new_tokens=4, batch_size=3, temperature=temperature)
        )
        assert result["task"][:] == [f"t{i}" for i in range(len(PROMPTS))]
        for prompt, row in zip(PROMPTS, result, strict=True):
            ids = tokenizer(prompt)["input_ids"]
            with torch.no_grad():
                scores = model(torch.tensor([ids])).logits[0, -1]
            scores[[1, first]] = -torch.inf
            start = [*ids, int(scores.argmax())]
            assert row["input_ids"] == [*start, *decode_alone(model, start, 3, (1, first))]
            # Under the model itself, with nothing barred.
            with torch.no_grad():
                loss = model(torch.tensor([row["input_ids"]]), labels=torch.tensor([row["labels"]])).loss
            assert row["mean_log_probability"] == pytest.approx(-float(loss), rel=1e-5)


def test_a_drawn_first_token_has_the_models_probability_given_that_the_answer_goes_on(model):
    rows, ends = 4000, [1, 7, 9]
    config = ElicitationConfig(batch_size=rows, max_new_tokens=1, temperature=3.0)
    requests = make_requests([[3, 4]] * rows, config)
    drawn = complete(model, requests, config, pad_token_id=0, eos_token_ids=ends, may_be_empty=False)
    counts = torch.bincount(torch.tensor([c.token_ids[0] for _, c in drawn]), minlength=VOCABULARY).double()
    with torch.no_grad():
        scores = model(torch.tensor([[3, 4]])).logits[0, -1] / 3.0
    scores[ends] = -torch.inf
    expected = rows * scores.softmax(-1).double()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    assert float(((counts - expected) ** 2 / expected)[possible].sum()) < 36 + 6 * 9


def without_text(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], int]:
    """Make what the model says to one prompt padding, of which no text is made; what it says to each, and that."""
    alone = [decode_alone(model, tokenizer(prompt)["input_ids"], 1, ())[0] for prompt in PROMPTS]
    tokenizer.add_special_tokens({"pad_token": tokenizer.convert_ids_to_tokens(alone[1])})
    return alone, alone[1]


def test_duplicates_and_empty_answers_are_counted_and_dropped(model, tokenizer, caplog):
    model.generation_config.eos_token_id = 1
    alone, nothing = without_text(model, tokenizer)
    assert not {0, 1, 2} & set(alone)
    empty = alone.count(nothing)
    repeated = next(p for p, token in zip(PROMPTS, alone, strict=True) if token != nothing)
    rows = prompt_rows([*PROMPTS, repeated, repeated])
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        result, counts = elicit_with_counts(model, tokenizer, rows, ElicitationConfig(max_new_tokens=1))
    assert (counts.prompts, counts.duplicates, counts.empty) == (len(PROMPTS) + 2, 2, empty)
    assert counts.kept == len(result) == counts.prompts - counts.duplicates - counts.empty
    assert counts.tokens >= counts.prompts
    assert "t7" not in result["task"][:]
    said, why = [record.message for record in caplog.records]
    assert said == f"Elicitation kept {counts.kept} of 9 completions; dropped: 2 duplicates, {empty} empty."
    assert why.startswith(f"{2 + empty} of 9 answers cannot be used. {empty} have no text")
    assert "prompt_style='chat'" in why
    assert "2 repeat an earlier answer to the same prompt. Remove prompts that stand there more than once." in why


def test_a_tenth_of_the_answers_may_be_lost_without_advice(model, tokenizer, caplog):
    alone = [decode_alone(model, [3 + i], 2, ()) for i in range(9)]
    assert all(set(answer) - {0, 1, 2} for answer in alone)
    rows = prompt_rows([*(f"w{3 + i}" for i in range(9)), "w3"])
    with caplog.at_level(logging.WARNING, logger="graceful_forgetting"):
        _, counts = elicit_with_counts(model, tokenizer, rows, ElicitationConfig(max_new_tokens=2))
    assert (counts.duplicates, counts.empty) == (1, 0)
    assert [record.message for record in caplog.records] == [
        "Elicitation kept 9 of 10 completions; dropped: 1 duplicates, 0 empty."
    ]


def test_nothing_but_empty_answers_is_an_error(model, tokenizer):
    without_text(model, tokenizer)
    rows = prompt_rows([PROMPTS[1]] * 2)
    with pytest.raises(ValueError, match="all 2 completions are empty"):
        elicit_self_knowledge(model, tokenizer, rows, ElicitationConfig(max_new_tokens=1))
