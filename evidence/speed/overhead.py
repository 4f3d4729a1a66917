"""What a learning step of `LWFTrainer` costs beside one of TRL's `SFTTrainer`, without unlearning and with it.

    python evidence/speed/overhead.py [--case world base-text] [--steps 60] [--threads 1] [--output overhead.json]

Four trainers take their steps in turn, in one process: `SFTTrainer` on the learning rows (sft), `LWFTrainer` on the
same without unlearning (off) and with one unlearning update a step (on), and `SFTTrainer` on the very batches that
are unlearned (forget). A step is all that lies between two calls of `on_step_end`: loading of batches, forward and
backward pass, clipping, optimizer, log. Two ratios are paired round by round, and their medians printed: off / sft, and
on / (sft + forget), where both updates cost what TRL's cost.

Times are CPU seconds of a trainer's own thread, so that other programs on the machine disturb them little; each round
has a random order, since a step after one of another model finds its weights no longer in the processor's cache.
"""

import argparse
import random
import statistics
import threading
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset, disable_progress_bars
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.data import tokenize_dataset
from graceful_forgetting.results.provenance import collect_hardware, package_versions
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.tasks import load_task
from graceful_forgetting.training.preparation import SCORE_COLUMN, Preparation
from graceful_forgetting.training.shipped import shipped_model
from graceful_forgetting.unlearning.order import batch_indices
from graceful_forgetting.worlds import load_world, world_checkpoint

# The first rounds allocate memory and fill caches.
WARM_UP = 5
SEED = 0


def world_case() -> tuple[Path, Dataset, Dataset, int]:
    """The demo: 0.8 M parameters, short rows. Model, learning rows, forgetting rows, batch size."""
    world = load_world("shortcut")
    return world_checkpoint("shortcut", "base"), world.learning_train, world.forgetting["color"], 32


def base_text_case() -> tuple[Path, Dataset, Dataset, int]:
    """The recipe on real rows: the shipped base model, gsm8k and dental."""
    learning, forgetting = (load_task(task, source="sample") for task in ("gsm8k", "dental"))
    columns = ["prompt", "completion"]
    return shipped_model(), learning.select_columns(columns), forgetting.select_columns(columns), 8


CASES = {"world": world_case, "base-text": base_text_case}


class Turns:
    """Lets threads go on one at a time, each once a round, in an order drawn for every round."""

    def __init__(self, names: Sequence[str], rounds: int):
        draw = random.Random(SEED)
        self._plan = [name for _ in range(rounds) for name in draw.sample(names, len(names))]
        self._next = 0
        self._changed = threading.Condition()
        self._failed = False

    def wait(self, name: str) -> None:
        """Until it is the turn of `name`. Raises `RuntimeError` if another thread failed."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._plan[self._next] == name)
            if self._failed:
                raise RuntimeError("another trainer failed")

    def done(self) -> None:
        """The turn is over."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    @contextmanager
    def abandoned_on_error(self) -> Any:
        """Inside the block, an error wakes the others up."""
        try:
            yield
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise


class OneStepATurn(TrainerCallback):
    """Ends the thread's turn after each step and notes the CPU seconds of the step."""

    def __init__(self, turns: Turns, name: str, total: int):
        self.turns, self.name, self.total = turns, name, total
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.thread_time() - self._start)
        self.turns.done()
        if len(self.seconds) < self.total:
            self._begin()

    def _begin(self) -> None:
        self.turns.wait(self.name)
        self._start = time.thread_time()


def make_trainers(case: str, steps: int, folder: Path) -> dict[str, SFTTrainer]:
    path, learning, forgetting, batch_size = CASES[case]()
    tokenizer = AutoTokenizer.from_pretrained(path)
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "learning_rate": 1e-5,
        "logging_steps": 5,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": False,
        "activation_checkpointing": False,
        "dataloader_pin_memory": False,
        "seed": SEED,
    }
    rows = tokenize_dataset(forgetting, tokenizer, argument="forgetting rows")
    rows = rows.add_column(SCORE_COLUMN, [0.0] * len(rows)).add_column("source_index", list(range(len(rows))))
    order = [index for update in range(steps) for index in batch_indices(update, batch_size, len(rows), SEED)]
    prepared = Preparation(scored=rows, selected=rows, audit={})

    def trainer(kind: type[SFTTrainer], args: SFTConfig, train_dataset: Dataset, **keywords: Any) -> SFTTrainer:
        model = AutoModelForCausalLM.from_pretrained(path)
        made = kind(model, args, train_dataset=train_dataset, processing_class=tokenizer, **keywords)
        made.remove_callback(PrinterCallback)
        return made

    unlearning: dict[str, Any] = {
        "per_device_unlearn_batch_size": batch_size,
        "unlearn_loss_cap": 100.0,
        "guard_margin": None,
    }
    in_order = {"train_sampling_strategy": "sequential", "shuffle_dataset": False}
    forget_rows = rows.select_columns(["input_ids", "labels"]).select(order)
    return {
        "sft": trainer(SFTTrainer, SFTConfig(**settings), learning),
        "off": trainer(LWFTrainer, LWFConfig(**settings, unlearn_every=0), learning),
        "on": trainer(LWFTrainer, LWFConfig(**settings, **unlearning, unlearn_every=1), learning, preparation=prepared),
        "forget": trainer(SFTTrainer, SFTConfig(**settings, **in_order), forget_rows),
    }


def measure(case: str, steps: int) -> dict[str, list[float]]:
    """CPU seconds of every step after the first ones, by trainer."""
    with TemporaryDirectory() as folder:
        trainers = make_trainers(case, steps, Path(folder))
        turns = Turns(list(trainers), steps)
        clocks = {name: OneStepATurn(turns, name, steps) for name in trainers}

        def run(name: str) -> None:
            with turns.abandoned_on_error():
                trainers[name].add_callback(clocks[name])
                trainers[name].train()

        threads = [threading.Thread(target=run, args=(name,)) for name in trainers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = {name: clock.seconds[WARM_UP:] for name, clock in clocks.items()}
    if any(len(values) != steps - WARM_UP for values in seconds.values()):
        raise RuntimeError("a trainer did not finish: its error is above")
    return seconds


def paired(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Median and quartiles of the ratios of two series, round by round."""
    ratios = [above / below for above, below in zip(numerator, denominator, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {"median": middle, "lower_quartile": low, "upper_quartile": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="overhead.json")
    options = parser.parse_args()
    if options.steps < WARM_UP + 2:
        parser.error(f"--steps is {options.steps}; it must be {WARM_UP + 2} or more, since {WARM_UP} are a warm-up")
    disable_progress_bars()
    torch.set_num_threads(options.threads)
    cases = {}
    for case in options.case:
        seconds = measure(case, options.steps)
        both = [learned + forgotten for learned, forgotten in zip(seconds["sft"], seconds["forget"], strict=True)]
        off, on = paired(seconds["off"], seconds["sft"]), paired(seconds["on"], both)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        cases[case] = {"rounds": len(both), "seconds": medians, "off": off, "on": on}
        print(f"{case}: unlearning off {off['median']:.3f}, on {on['median']:.3f} times TRL's own cost")
    result = {"threads": options.threads, "hardware": vars(collect_hardware()), "packages": package_versions()}
    write_json(options.output, {**result, "cases": cases})


if __name__ == "__main__":
    main()
