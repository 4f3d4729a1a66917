"""TOFU's measures against their definition, one answer and one token at a time."""

from statistics import harmonic_mean

import pytest
import torch
from datasets import Dataset

from evidence.tofu import PartMeasures, model_utility, part_measures, perturbed_answers


def slow_probability(model, tokenizer, prompt: str, completion: str) -> float:
    """P(completion and EOS | prompt)^(1/tokens), a forward pass a token."""
    ids = tokenizer(prompt)["input_ids"]
    answer = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    product = 1.0
    for token in answer:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        product *= logits.softmax(dim=-1)[token].item()
        ids = [*ids, token]
    return product ** (1 / len(answer))


def test_measures_are_those_of_the_definition(make_model, tokenizer, forgetting: Dataset):
    # In float64: a ratio of probabilities magnifies what is rounded in the logits, which are large here.
    model = make_model(initializer_range=0.6).double().eval()
    rows = forgetting.select(range(5))
    others = perturbed_answers(rows["completion"], ["a"] * 5, 2)
    found = part_measures(model, tokenizer, rows, others, batch_size=4)
    own = [slow_probability(model, tokenizer, row["prompt"], row["completion"]) for row in rows]
    ratios = []
    for row, answer, wrong in zip(rows, own, others, strict=True):
        assert len(wrong) == 2
        ratios.append(sum(slow_probability(model, tokenizer, row["prompt"], text) for text in wrong) / 2 / answer)
    assert found.samples == 5
    assert found.probability == pytest.approx(sum(own) / 5, rel=1e-5)
    assert found.truth_ratios == pytest.approx(ratios, rel=1e-5)
    assert found.truth_score == pytest.approx(sum(max(0.0, 1 - ratio) for ratio in ratios) / 5, rel=1e-4)
    assert min(ratios) < 1 < max(ratios)


def test_perturbed_answers_are_other_answers_of_the_same_task():
    completions, tasks = ["a", "b", "a", "c", "x", "y"], ["t", "t", "t", "t", "u", "u"]
    drawn = perturbed_answers(completions, tasks, 5)
    assert [sorted(others) for others in drawn] == [["b", "c"], ["a", "c"], ["b", "c"], ["a", "b"], ["y"], ["x"]]
    assert all(len(others) == 1 for others in perturbed_answers(completions, tasks, 1))
    with pytest.raises(ValueError, match="all answers of forgetting task 't' are the same"):
        perturbed_answers(["a", "a"], ["t", "t"], 5)


def test_utility_is_a_harmonic_mean():
    part = PartMeasures(samples=1, probability=0.5, truth_ratios=[0.75], truth_score=0.25)
    assert model_utility(part, [1.0]) == pytest.approx(harmonic_mean([0.5, 0.25, 1.0]))
    assert model_utility(part, [0.0]) == 0
