"""The runs of tests/invariant/trajectories.py, in however many processes this is launched in.

`compiled_run.py <folder>` writes the losses of `full`, compiled, with the number of traced graphs and the topology
into `<folder>/compiled.json`; with `plain` behind the folder, before that those of all runs, not compiled, into
`<folder>/trajectories.json`.
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate import PartialState

sys.path.append(str(Path(__file__).parents[1] / "invariant"))
from trajectories import BATCH, main, train


def compiled(folder: Path) -> None:
    size = BATCH // int(os.environ["WORLD_SIZE"])
    losses = train("full", folder, per_device=size, torch_compile=True, torch_compile_backend="eager")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    state = PartialState()
    if state.is_main_process:
        found = {"losses": losses, "graphs": graphs, "topology": state.distributed_type.name}
        (folder / "compiled.json").write_text(json.dumps(found))


if __name__ == "__main__":
    if "plain" in sys.argv[2:]:
        main(Path(sys.argv[1]))
    compiled(Path(sys.argv[1]))
