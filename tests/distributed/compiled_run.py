"""The run `full` of tests/invariant/trajectories.py, compiled, in however many processes this is launched in.

`compiled_run.py <folder>` writes losses, number of traced graphs and topology into `<folder>/compiled.json`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState

sys.path.append(str(Path(__file__).parents[1] / "invariant"))
from trajectories import BATCH, train


def main(folder: Path) -> None:
    size = BATCH // int(os.environ["WORLD_SIZE"])
    losses = train("full", folder, per_device=size, torch_compile=True, torch_compile_backend="eager")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    state = PartialState()
    if state.is_main_process:
        found = {"losses": losses, "graphs": graphs, "topology": state.distributed_type.name}
        (folder / "compiled.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
