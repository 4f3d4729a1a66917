"""Stage 1: the base model answers the prompts of the forgetting tasks.

The pre-training data are out of reach, so the model's own completions stand for what it knows there
(Jiang et al., *Graceful Forgetting in Generative Language Models*, EMNLP 2025, arXiv 2505.19715).

Imports `generation`, `data`, `config` and `runtime`.
"""

from graceful_forgetting.elicitation.elicit import elicit_self_knowledge, elicit_with_counts

__all__ = ["elicit_self_knowledge", "elicit_with_counts"]
