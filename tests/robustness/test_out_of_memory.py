"""Memory runs out in every loop over batches: the stage goes on with smaller ones and ends with the same result."""

import logging
from contextlib import contextmanager

import pytest
import torch
from datasets import Dataset

from graceful_forgetting.baselines.token_forgetting import row_token_losses
from graceful_forgetting.confidence import score_confidence, shards
from graceful_forgetting.confidence.losses import learning_loss
from graceful_forgetting.config import ConfidenceConfig, ElicitationConfig, PosteriorConfig
from graceful_forgetting.elicitation import elicit_self_knowledge
from graceful_forgetting.evaluation.evaluate import EvaluationRows, evaluate_items
from graceful_forgetting.evaluation.likelihood import text_bits_per_byte
from graceful_forgetting.gradients.reducers import SquaredGradients
from graceful_forgetting.posterior import LearningPosterior
from graceful_forgetting.posterior.fisher import fisher_estimate
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.unlearning.base_losses import with_base_losses

MESSAGE = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 1.00 GiB"


@pytest.fixture
def model(make_model):
    return make_model(initializer_range=0.4).eval()


@pytest.fixture
def tokenised() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for index in range(20):
        ids = torch.randint(4, 64, (3 + index % 6,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]]})
    return Dataset.from_list(rows)


def prompts() -> Dataset:
    return Dataset.from_dict({"prompt": [" ".join(f"w{i + j}" for j in range(1 + i % 5)) for i in range(12)]})


@contextmanager
def memory_for(model, rows: int | None = None, fail_at: int | None = None):
    """Forward passes of more than `rows` rows fail, or the one with number `fail_at`; yields the rows of each pass."""
    passes: list[int] = []

    def check(_, args, kwargs):
        passes.append(len(kwargs["input_ids"]))
        if (rows is not None and passes[-1] > rows) or len(passes) - 1 == fail_at:
            raise torch.OutOfMemoryError(MESSAGE)

    handle = model.register_forward_pre_hook(check, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


def elicit(model, tokenizer, batch_size, **settings):
    config = ElicitationConfig(
        batch_size=batch_size, max_new_tokens=6, temperature=1.0, num_samples_per_prompt=2, seed=3
    )
    return elicit_self_knowledge(model, tokenizer, prompts(), config, **settings)


def same_answers(found: Dataset, expected: Dataset) -> None:
    likelihoods = torch.tensor(found["mean_log_probability"][:]), torch.tensor(expected["mean_log_probability"][:])
    torch.testing.assert_close(*likelihoods, rtol=1e-4, atol=1e-5)
    exact = [name for name in expected.column_names if name != "mean_log_probability"]
    assert found.select_columns(exact).to_list() == expected.select_columns(exact).to_list()


def test_elicitation_goes_on_with_half_the_batch(model, tokenizer, caplog):
    expected = elicit(model, tokenizer, 8)
    with caplog.at_level(logging.WARNING), memory_for(model, rows=3) as passes:
        found = elicit(model, tokenizer, 8)
    same_answers(found, expected)
    with memory_for(model) as own:
        assert found.to_list() == elicit(model, tokenizer, 2).to_list(), "as if the batch had been 2, bit for bit"
    assert passes[-len(own) :] == own
    said = [record.getMessage() for record in caplog.records if "memory" in record.getMessage()]
    assert said[0] == (
        "Elicitation runs out of memory with 8 rows at once (tried to allocate 20.00 MiB), and goes on with 4. The "
        "result is the same but for rounding."
    )
    assert len(said) == 2


@pytest.mark.parametrize("fail_at", [0, 1, 4, 9, 20])
def test_elicitation_loses_no_answer_wherever_memory_runs_out(model, tokenizer, monkeypatch, tmp_path, fail_at):
    monkeypatch.setattr("graceful_forgetting.elicitation.shards.SHARD_SIZE", 10)
    expected = elicit(model, tokenizer, 4)
    with memory_for(model, fail_at=fail_at):
        same_answers(elicit(model, tokenizer, 4, resume_dir=tmp_path), expected)
    with memory_for(model, rows=0):
        same_answers(elicit(model, tokenizer, 4, resume_dir=tmp_path), expected)  # the shards serve


def evaluate(model, tokenizer, batch_size):
    rows = prompts()
    options = [[f" w{i} w{i + 1}", f" w{2 * i + 7}"] for i in range(len(rows))]
    rows = rows.add_column("completion", [own[0] for own in options]).add_column("choices", options)
    return evaluate_items(
        model,
        EvaluationRows(rows, tokenizer),
        "learning",
        None,
        batch_size=batch_size,
        max_new_tokens=4,
        description="test",
    )


def test_evaluation_generates_and_reads_with_smaller_batches(model, tokenizer):
    expected = evaluate(model, tokenizer, 8)
    with memory_for(model, rows=2) as passes:
        metrics, items = evaluate(model, tokenizer, 8)
    assert passes.count(2) > 4
    assert items.generated == expected[1].generated
    assert items.nats == pytest.approx(expected[1].nats, rel=1e-5)
    smaller = evaluate(model, tokenizer, 2)
    assert (metrics, items) == smaller, "as if the batch had been 2, bit for bit"


def test_the_bits_of_a_text_do_not_depend_on_memory(model, tokenizer):
    text = " ".join(f"w{i % 60}" for i in range(60))

    def bits(batch_size):
        return text_bits_per_byte(model, tokenizer, text, window=8, batch_size=batch_size)

    with memory_for(model, rows=3):
        assert bits(8) == bits(2)


@pytest.mark.parametrize("scorer", ["lwf", "interference", "gradient_conflict", "pairwise_conflict", "loss"])
def test_scoring_goes_on_with_half_the_batch(model, tokenised, tmp_path, monkeypatch, scorer):
    monkeypatch.setattr(shards, "SHARD_SIZE", 8)
    mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    posterior = LearningPosterior(
        mean, {n: torch.ones_like(p) for n, p in mean.items()}, {"model": fingerprint_model(model)}
    )

    def score(batch_size, **settings):
        config = ConfidenceConfig(scorer=scorer, batch_size=batch_size)
        return score_confidence(model, tokenised, posterior, config, learning=tokenised.select(range(6)), **settings)

    expected, whole = score(2), score(8)
    with memory_for(model, rows=2):
        found = score(8, resume_dir=tmp_path)
    assert found["forgetting_confidence"][:] == expected["forgetting_confidence"][:], "as with batches of 2"
    # An inner product that nearly cancels has the rounding of those that do not.
    rounding = 1e-7 * max(10.0, *map(abs, whole["forgetting_confidence"]))
    assert found["forgetting_confidence"][:] == pytest.approx(whole["forgetting_confidence"][:], rel=1e-4, abs=rounding)
    again = score(8, resume_dir=tmp_path)
    assert again["forgetting_confidence"][:] == found["forgetting_confidence"][:], "finished shards serve"


@pytest.mark.parametrize("estimator", ["sampled", "empirical"])
@pytest.mark.parametrize("resumed", [False, True])
def test_the_fisher_information_counts_nothing_twice(model, tokenised, tmp_path, monkeypatch, estimator, resumed):
    """A backward pass that breaks off half-way has added a part of its squares."""
    monkeypatch.setattr("graceful_forgetting.posterior.fisher.SHARD_SIZE", 8)

    def estimate(batch_size, folder=None):
        return fisher_estimate(model, tokenised, PosteriorConfig(estimator=estimator, batch_size=batch_size), folder)

    expected, smaller = estimate(4), estimate(2)
    for method in ("product", "dense", "sparse"):
        take = getattr(SquaredGradients, method)

        def failing(self, name, *rest, take=take):
            taken = take(self, name, *rest)
            calls.append(name)
            if len(calls) == 75 and self.totals:
                raise torch.OutOfMemoryError(MESSAGE)
            return taken

        monkeypatch.setattr(SquaredGradients, method, failing)
    calls: list[str] = []
    found = estimate(4, tmp_path if resumed else None)
    assert len(calls) > 75
    for name, values in expected.diagonal.items():
        # A gradient that nearly cancels has the rounding of those beside it.
        torch.testing.assert_close(found.diagonal[name], values, rtol=1e-4, atol=1e-12 + 1e-6 * values.max().item())
    assert found.trace == pytest.approx(expected.trace, rel=1e-5)
    if not resumed:
        for name, values in smaller.diagonal.items():
            assert torch.equal(found.diagonal[name], values), "begun again with batches of 2"


def test_losses_before_training_do_not_depend_on_memory(model, tokenised):
    expected = [
        with_base_losses(tokenised, model, 2)["base_loss"][:],
        learning_loss(model, tokenised, 2),
        torch.cat(row_token_losses(model, tokenised, 2)).tolist(),
    ]
    with memory_for(model, rows=2):
        found = [
            with_base_losses(tokenised, model, 8)["base_loss"][:],
            learning_loss(model, tokenised, 8),
            torch.cat(row_token_losses(model, tokenised, 8)).tolist(),
        ]
    assert found[0] == expected[0]
    assert found[1] == pytest.approx(expected[1], rel=1e-6)
    assert found[2] == expected[2]


def test_a_single_row_that_does_not_fit_is_one_message(model, tokenizer, tokenised):
    with memory_for(model, rows=0):
        with pytest.raises(ValueError, match=r"Elicitation runs out of memory with one row at a time .*max_new_tokens"):
            elicit(model, tokenizer, 8)
        with pytest.raises(ValueError, match="Generation runs out of memory with one row at a time"):
            evaluate(model, tokenizer, 8)
        with pytest.raises(ValueError, match="Scoring runs out of memory with one row at a time"):
            score_confidence(model, tokenised, None, ConfidenceConfig(scorer="loss", batch_size=8))
