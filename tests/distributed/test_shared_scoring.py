"""Two processes share the work and come to the scores of one."""

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

WORK = """
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM

from graceful_forgetting.runtime.artifacts import write_json
from graceful_forgetting.confidence import score_confidence, shards
from graceful_forgetting.config import ConfidenceConfig, PosteriorConfig
from graceful_forgetting.posterior import estimate_posterior, fisher

folder = Path(sys.argv[1])
state = PartialState(cpu=True)
torch.set_num_threads(1)
sizes = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(**sizes))
torch.manual_seed(1)
reference = LlamaForCausalLM(LlamaConfig(**sizes))
rows = []
for index in range(23):
    ids = torch.randint(4, 64, (4 + index % 5,)).tolist()
    rows.append({"input_ids": ids, "labels": [-100, *ids[1:]]})
rows = Dataset.from_list(rows)
results = {"processes": state.num_processes}
fisher.SHARD_SIZE = 8
config = PosteriorConfig(batch_size=4)
posterior = estimate_posterior(base, reference, rows, config, resume_dir=folder / "posterior")
results["trace"] = posterior.metadata["trace"]
results["precision"] = {name: float(tensor.double().sum()) for name, tensor in posterior.precision.items()}
posterior.save_pretrained(folder / f"own-{state.process_index}")
at_base = PosteriorConfig(batch_size=4, fisher_at="base")
at_base = estimate_posterior(base, reference, rows, at_base, resume_dir=folder / "posterior")
results["at base"] = {name: float(tensor.double().sum()) for name, tensor in at_base.precision.items()}
shards.SHARD_SIZE = 4
# Scores are compared under one and the same posterior.
if state.num_processes == 1:
    posterior.save_pretrained(folder / "shared")
else:
    posterior = type(posterior).from_pretrained(folder / "shared", model=base)
for name, settings in (
    ("lwf", {}),
    ("interference", {"scorer": "interference"}),
    ("pairwise", {"scorer": "pairwise_conflict"}),
    # In shards of its own: those of 'lwf' would do.
    ("crossover", {"step_size_rule": "crossover", "weights": "bfloat16"}),
):
    config = ConfidenceConfig(**{"scorer": "lwf", "batch_size": 4, **settings})
    saved = folder / f"scores-{state.num_processes}"
    scored = score_confidence(base, rows, posterior, config, learning=rows, resume_dir=saved)
    results[name] = scored.remove_columns(["input_ids", "labels"]).to_dict()
write_json(folder / f"result-{state.num_processes}-{state.process_index}.json", results)
try:
    bad = rows.add_item({"input_ids": [1, 2], "labels": [-100, 2]})
    base.model.embed_tokens.register_forward_hook(
        lambda _, inputs, output: output * torch.where(inputs[0] == 1, torch.nan, 1.0).unsqueeze(-1)
    )
    shards.SHARD_SIZE = 1
    score_confidence(base, bad, None, ConfidenceConfig(scorer="loss", batch_size=1))
except (FloatingPointError, RuntimeError) as error:
    (folder / f"error-{state.num_processes}-{state.process_index}").write_text(str(error))
"""


def launch(folder: Path, processes: int) -> None:
    script = folder / "work.py"
    script.write_text(WORK)
    runner = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *runner, str(script), str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    launch(folder, 1)
    launch(folder, 2)
    return folder


def results(folder: Path) -> list[dict]:
    names = ("result-1-0.json", "result-2-0.json", "result-2-1.json")
    return [json.loads((folder / name).read_text()) for name in names]


def test_scores_are_those_of_one_process_bit_for_bit(folder: Path) -> None:
    one, first, second = results(folder)
    assert (one["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    for scorer in ("lwf", "interference", "pairwise", "crossover"):
        assert one[scorer] == first[scorer] == second[scorer]
        # Two rows that oppose each other most have one pairwise score.
        assert len(set(one[scorer]["forgetting_confidence"])) >= (12 if scorer == "pairwise" else 23)
    assert set(one["crossover"]["step_size"]) == {median(one["crossover"]["step_size_crossover"])}


def test_both_processes_did_a_share(folder: Path) -> None:
    assert (
        len(list((folder / "scores-2").iterdir())) == len(list((folder / "scores-1").iterdir())) == 24
    )  # 6 shards for each of four measurements
    names = sorted(path.name for path in (folder / "posterior").iterdir())
    assert names == [f"fisher-{share}" for share in ("0-of-1", "0-of-2", "1-of-2")]


def test_fisher_information_is_the_same_on_both_and_up_to_rounding_that_of_one(folder: Path) -> None:
    one, first, second = results(folder)
    for estimated in ("precision", "at base"):
        assert first[estimated] == second[estimated]
        assert first[estimated] == pytest.approx(one[estimated], rel=1e-6)
    assert one["at base"] != pytest.approx(one["precision"], rel=1e-2)
    assert first["trace"] == pytest.approx(one["trace"], rel=1e-12)
    files = [(folder / f"own-{index}" / "posterior.safetensors").read_bytes() for index in (0, 1)]
    assert files[0] == files[1]


def test_an_error_in_one_process_ends_all(folder: Path) -> None:
    texts = [(folder / f"error-2-{index}").read_text() for index in (0, 1)]
    assert any("row 23" in text for text in texts)
    assert "row 23" in (folder / "error-1-0").read_text()
