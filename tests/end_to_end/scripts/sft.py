import sys

from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

model, folder, output = sys.argv[1:]
learning = load_dataset("json", data_files=f"{folder}/learning.jsonl", split="train")

trainer = SFTTrainer(
    model=model,
    args=SFTConfig(output_dir=output, max_steps=6, learning_rate=1e-3, bf16=False),
    train_dataset=learning,
    peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(output)
