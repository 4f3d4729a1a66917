"""Several trainings one after the other, in however many processes this is launched in; run by test_trainer.py."""

import json
import os
import sys
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer

from graceful_forgetting import LWFConfig, LWFTrainer
from graceful_forgetting.runtime.distributed import whole

# How many rows an update takes, whatever the number of processes.
BATCH = 8
# As the paper's formula has it; two processes have to agree on a posterior and its scores.
FORMULA = {
    "reference_fraction": 1.0,
    "confidence_scorer": "lwf",
    "forget_fraction": 0.5,
    "unlearn_objective": "bounded_ascent",
    "unlearn_loss_cap": 8.0,
    "unlearn_retain_weight": 0.0,
}


def train(folder: Path, output: Path, case: dict, resume: str | None = None) -> None:
    rows = json.loads((folder / "rows.json").read_text())
    size = BATCH // int(os.environ.get("WORLD_SIZE", "1"))
    passes = case["settings"].get("unlearn_gradient_accumulation_steps", 1)
    args = LWFConfig(
        output_dir=str(output),
        max_steps=7,
        per_device_train_batch_size=size,
        per_device_unlearn_batch_size=size // passes,
        # Held-out losses are means over batches, which are the same for any number of processes only with one row each.
        per_device_eval_batch_size=1,
        learning_rate=3e-3,
        # AdamW divides by the size of a gradient, and makes much of the rounding of one that is nearly 0 otherwise.
        adam_epsilon=1e-6,
        unlearn_every=2,
        elicitation_max_new_tokens=4,
        logging_steps=1,
        save_strategy="steps",
        save_steps=4,
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        **{**FORMULA, **case["settings"]},
    )
    learning = Dataset.from_list(rows["learning"])
    trainer = LWFTrainer(
        str(folder / case["model"]),
        args,
        train_dataset=learning,
        # An odd number of rows, the last of which has to count once.
        eval_dataset=learning.select(range(23)) if case["held_out"] else None,
        forget_dataset=Dataset.from_list(rows[case["forgetting"]]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        peft_config=LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM") if case["lora"] else None,
    )
    trainer.train(resume_from_checkpoint=resume)
    final = output / ("final" if resume is None else "resumed")
    trainer.save_model(str(final))
    sums = {name: whole(parameter).double().sum().item() for name, parameter in trainer.model.named_parameters()}
    own = {"guard": trainer.unlearning_summary()["guard"], "sums": sums}
    final.mkdir(exist_ok=True)
    (final / f"process-{trainer.args.process_index}.json").write_text(json.dumps(own))
    if trainer.is_world_process_zero():
        record = {"log": trainer.state.log_history, "topology": str(trainer.accelerator.distributed_type)}
        (final / "record.json").write_text(json.dumps(record))


def main() -> None:
    folder, output, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    for name, case in cases.items():
        train(folder, output / name, case)
        if case["resume"]:
            train(folder, output / name, case, str(output / name / "checkpoint-4"))


if __name__ == "__main__":
    main()
