"""Memory of elicitation, scoring and selection against the number of prompts, on a tiny model.

    python evidence/speed/scale_elicitation.py [--prompts 2000 20000] [--output evidence/speed/scale-elicitation.json]

Each number of prompts is worked on in a process of its own, from a data set on disk, with finished shards saved and
every stage read back from disk, as a run does it. A first pass over 1,100 prompts warms everything up. Written are, for
each stage, seconds and the highest memory that is the process's own (pages of mapped files can be dropped and do not
count), and what a prompt adds from the smallest to the largest number.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset, disable_progress_bars, load_from_disk
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from graceful_forgetting import (
    ConfidenceConfig,
    ElicitationConfig,
    LearningPosterior,
    elicit_self_knowledge,
    score_confidence,
)
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model
from graceful_forgetting.selection import save_selected, select_with_audit

WORDS, LENGTH, NEW = 2000, 20, 6
WARM_UP = 1100


def make_tokenizer() -> PreTrainedTokenizerFast:
    words = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *(f"w{i}" for i in range(WORDS))])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def make_model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=WORDS + 3,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        eos_token_id=1,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config).eval()


class Peak:
    """The highest memory of this process's own, in `stages` by stage."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        process, done, highest = psutil.Process(), threading.Event(), [own(psutil.Process())]

        def watch() -> None:
            while not done.wait(0.02):
                highest[0] = max(highest[0], own(process))

        watcher = threading.Thread(target=watch)
        watcher.start()
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        self.stages[name] = {"seconds": seconds, "peak_bytes": highest[0]}


def own(process: psutil.Process) -> int:
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def work(folder: Path, rows: Dataset, peak: Peak) -> None:
    """The three stages of a run, each from disk to disk."""
    model, tokenizer = make_model(), make_tokenizer()
    with peak.stage("elicit"):
        config = ElicitationConfig(batch_size=256, max_new_tokens=NEW, temperature=1.0)
        found = elicit_self_knowledge(model, tokenizer, rows, config, resume_dir=folder / "answers")
        found.save_to_disk(str(folder / "elicited"))
        del found
    with peak.stage("score"):
        mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
        precision = {name: torch.ones_like(p) for name, p in mean.items()}
        posterior = LearningPosterior(mean, precision, {"model": fingerprint_model(model)})
        scored = score_confidence(
            model,
            load_from_disk(str(folder / "elicited")),
            posterior,
            ConfidenceConfig(scorer="interference", batch_size=64),
            tokenizer,
            resume_dir=folder / "scores",
        )
        scored.save_to_disk(str(folder / "scored"))
        del scored
    with peak.stage("select"):
        selected, audit = select_with_audit(load_from_disk(str(folder / "scored")), fraction=0.25)
        save_selected(selected, folder / "selected")
        write_json(folder / "selection.json", audit)


def prompts(number: int) -> Dataset:
    ids = torch.randint(WORDS, (number, LENGTH), generator=torch.Generator().manual_seed(1)).tolist()
    return Dataset.from_dict({"prompt": [" ".join(f"w{i}" for i in row) for row in ids]})


def measure(folder: Path, number: int) -> dict[str, Any]:
    disable_progress_bars()
    torch.set_num_threads(1)
    prompts(number).save_to_disk(str(folder / "prompts"))
    rows = load_from_disk(str(folder / "prompts"))
    work(folder / "warm-up", rows.select(range(WARM_UP)), Peak())
    warm, peak = own(psutil.Process()), Peak()
    work(folder / "run", rows, peak)
    return {"prompts": number, "warm_bytes": warm, "stages": peak.stages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one is not None:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Path(folder), arguments.one)))
        return
    results: list[dict[str, Any]] = []
    for number in arguments.prompts:
        command = [sys.executable, __file__, "--one", str(number)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append(json.loads(output.splitlines()[-1]))
        stages = {
            n: f"{s['seconds']:.0f} s, {s['peak_bytes'] / 2**20:.0f} MiB" for n, s in results[-1]["stages"].items()
        }
        print(number, f"after warm-up {results[-1]['warm_bytes'] / 2**20:.0f} MiB", stages, flush=True)
    first, last = results[0], results[-1]
    a_prompt = {
        name: (stage["peak_bytes"] - first["stages"][name]["peak_bytes"]) / max(last["prompts"] - first["prompts"], 1)
        for name, stage in last["stages"].items()
    }
    print("bytes a prompt", {name: round(size) for name, size in a_prompt.items()})
    if arguments.output is not None:
        write_json(arguments.output, {"bytes_a_prompt": a_prompt, "results": results})


if __name__ == "__main__":
    main()
