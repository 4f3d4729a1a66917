import sys

from datasets import load_dataset
from peft import LoraConfig
from graceful_forgetting import LWFConfig, LWFTrainer

model, folder, output = sys.argv[1:]
learning = load_dataset("json", data_files=f"{folder}/learning.jsonl", split="train")
forgetting = load_dataset("json", data_files=f"{folder}/forgetting.jsonl", split="train")

trainer = LWFTrainer(
    model=model,
    args=LWFConfig(output_dir=output, max_steps=6, learning_rate=1e-3, bf16=False),
    train_dataset=learning,
    forget_dataset=forgetting,
    peft_config=LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(output)
