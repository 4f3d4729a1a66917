"""What the whole method costs over plain fine-tuning, by stage: the demo, by interference; the same by
the paper's formula; and the recipe of real rows, by the formula.

    python evidence/speed/method_cost.py [--case demo formula gsm8k_forget_dental] [--seeds 3] [--output FILE]

As `graceful run` prints it at its end, with two differences: a stage's time is CPU seconds of the process, so that
other programs disturb it little, and nothing is evaluated.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from datasets import disable_progress_bars

from graceful_forgetting.cli.commands import DEMO_RECIPE
from graceful_forgetting.results.cost import MethodCost, method_cost
from graceful_forgetting.results.provenance import collect_hardware, package_versions
from graceful_forgetting.runs.pipeline import Pipeline
from graceful_forgetting.runs.recipe import parse_recipe
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.training import stages

# Case -> recipe, and what is changed of it.
RECIPES: dict[str, tuple[Path, list[str]]] = {
    "demo": (DEMO_RECIPE, ["--method", "interference"]),
    "formula": (DEMO_RECIPE, ["--method", "published"]),
    "gsm8k_forget_dental": (Path(__file__).parents[2] / "recipes" / "gsm8k_forget_dental.yaml", []),
}


def measure(recipe: Path, changes: list[str], seeds: int) -> MethodCost:
    """What the stages of one recipe cost, in CPU seconds."""
    with TemporaryDirectory() as folder:
        fields = [*changes, "--output_dir", folder, "--num_seeds", str(seeds)]
        pipeline = Pipeline(*parse_recipe(str(recipe), fields), announce=print)
        pipeline.method.stages_read()
        for seed in pipeline.seeds:
            pipeline.plain_arm(seed)
            pipeline.lwf_run(seed)
        cost = method_cost(pipeline.directory.results)
    assert cost is not None
    return cost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="method-cost.json")
    options = parser.parse_args()
    disable_progress_bars()
    stages.time = SimpleNamespace(perf_counter=time.process_time)  # type: ignore[assignment]
    cases = {case: measure(*RECIPES[case], options.seeds) for case in options.case}
    result = {"threads": torch.get_num_threads(), "hardware": vars(collect_hardware()), "packages": package_versions()}
    write_json(options.output, {**result, "cases": {case: vars(cost) for case, cost in cases.items()}})
    for case, cost in cases.items():
        print(f"{case}: {cost.with_reference_at_hand:.2f} times plain fine-tuning, {cost.per_seed:.2f} a seed")


if __name__ == "__main__":
    main()
