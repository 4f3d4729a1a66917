"""Trains and pushes to the hub that HF_ENDPOINT names: `pushing_script.py <model> <learning> <forgetting> <output>`.

In a process of its own, since huggingface_hub reads its address and whether it may be asked when it is imported.
"""

import sys

from datasets import load_dataset

from graceful_forgetting import LWFConfig, LWFTrainer


def main(model: str, learning: str, forgetting: str, output: str) -> None:
    rows = [load_dataset("json", data_files=file, split="train") for file in (learning, forgetting)]
    args = LWFConfig(
        output,
        method="lwf",
        max_steps=4,
        unlearn_every=2,
        forget_fraction=0.5,
        elicitation_max_new_tokens=4,
        save_strategy="no",
        bf16=False,
        activation_checkpointing=False,
        disable_tqdm=True,
        push_to_hub=True,
        hub_model_id="someone/colors",
        hub_token="hf_test",
    )
    trainer = LWFTrainer(model, args, train_dataset=rows[0], forget_dataset=rows[1])
    trainer.train()
    trainer.push_to_hub(dataset_name="species")


if __name__ == "__main__":
    main(*sys.argv[1:])
