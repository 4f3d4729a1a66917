"""Memory and time of scoring against the number of samples, on a tiny model.

    python evidence/speed/scale.py [--samples 1000 10000 100000] [--output scale.json]

Each number of samples is scored in a process of its own, from a data set on disk and a posterior on disk, with finished
shards saved as a real run saves them. Printed as a table, and written as JSON: seconds of `score_confidence` (the
rest, such as reading the model, is not counted), samples per second, growth of the process's memory from before the
call to its peak, and the estimates that were announced before the work.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from datasets import Dataset, disable_progress_bars, load_from_disk
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting import ConfidenceConfig, LearningPosterior, score_confidence
from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.runtime.fingerprint import fingerprint_model

LENGTH, PROMPT, VOCABULARY = 12, 6, 512


def build(folder: Path, samples: list[int]) -> None:
    """A model of 60,000 parameters, a posterior for it, and data sets of short rows."""
    disable_progress_bars()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=88,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "model")
    mean = {name: p.detach() + 0.01 for name, p in model.named_parameters()}
    precision = {name: torch.rand_like(p) for name, p in mean.items()}
    LearningPosterior(mean, precision, {"model": fingerprint_model(model)}).save_pretrained(folder / "posterior")
    for number in samples:
        ids = torch.randint(VOCABULARY, (number, LENGTH))
        labels = ids.clone()
        labels[:, :PROMPT] = -100
        rows = {"input_ids": ids.tolist(), "labels": labels.tolist()}
        Dataset.from_dict(rows).save_to_disk(str(folder / f"rows-{number}"))


def measure(folder: Path, number: int, batch_size: int) -> dict[str, object]:
    """Score one data set in this process."""
    disable_progress_bars()
    model = LlamaForCausalLM.from_pretrained(folder / "model")
    posterior = LearningPosterior.from_pretrained(folder / "posterior")
    rows = load_from_disk(str(folder / f"rows-{number}"))
    # Once, so that what is loaded on first use is there before the measurement.
    score_confidence(model, rows.select(range(64)), posterior, ConfidenceConfig(scorer="lwf", batch_size=batch_size))
    process, peak, done = psutil.Process(), [0], threading.Event()
    said: list[str] = []
    before = _anonymous(process)

    def watch() -> None:
        while not done.wait(0.02):
            peak[0] = max(peak[0], _anonymous(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    config = ConfidenceConfig(scorer="lwf", batch_size=batch_size)
    score_confidence(model, rows, posterior, config, resume_dir=folder / f"work-{number}", announce=said.append)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    return {
        "samples": number,
        "seconds": seconds,
        "samples_per_second": number / seconds,
        "memory_growth_bytes": peak[0] - before,
        "announced": said,
    }


def _anonymous(process: psutil.Process) -> int:
    """Memory that is the process's own: pages of mapped files can be dropped at any time and are not counted."""
    memory = process.memory_info()
    return memory.rss - memory.shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.folder is not None:
        print(json.dumps(measure(arguments.folder, arguments.samples[0], arguments.batch_size)))
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), arguments.samples)
        print(f"{'samples':>8} {'seconds':>8} {'samples/s':>10} {'memory growth':>14}  announced")
        for number in arguments.samples:
            command = [sys.executable, __file__, "--folder", folder, "--samples", str(number)]
            command += ["--batch_size", str(arguments.batch_size)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            result = json.loads(output.splitlines()[-1])
            results.append(result)
            print(
                f"{number:>8} {result['seconds']:>8.1f} {result['samples_per_second']:>10.0f} "
                f"{result['memory_growth_bytes'] / 2**20:>10.1f} MiB  {'; '.join(result['announced'])}",
                flush=True,
            )
    if arguments.output is not None:
        write_json(arguments.output, {"torch_threads": torch.get_num_threads(), "results": results})


if __name__ == "__main__":
    main()
