"""Which tokens count where the end of an answer is not unlearned."""

from typing import Any

from datasets import Dataset

from graceful_forgetting.training.unlearned_rows import without_ends


def test_an_answer_counts_up_to_its_end(tokenizer: Any) -> None:
    end = tokenizer.eos_token_id
    rows = Dataset.from_dict(
        {
            "input_ids": [[5, 6, 7, end, 8], [5, 6], [5, end]],
            # The end and what the template puts after it; cut off without an end; nothing but an end.
            "labels": [[-100, 6, 7, end, 8], [-100, 6], [-100, end]],
            "forgetting_confidence": [1.0, 2.0, 3.0],
        }
    )
    found = without_ends(rows, tokenizer)
    assert found["labels"][:] == [[-100, 6, 7, -100, -100], [-100, 6], [-100, end]]
    assert found["input_ids"][:] == rows["input_ids"][:]
    assert found["forgetting_confidence"][:] == [1.0, 2.0, 3.0]
    assert found.features == rows.features
