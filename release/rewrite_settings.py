"""Rewrites recipes and grids from the settings of before 0.1 to those of today; comments and YAML anchors stay.

python release/rewrite_settings.py FILE.yaml ...      rewrite the files in place
python release/rewrite_settings.py --check FILE ...   exit with 1 if that would change one

What has no equivalent is an error that names file, line and remedy. CHANGELOG.md has the table.
"""

import re
import sys
from pathlib import Path

# Constants, and features without a gain: the value that they have to have had.
REMOVED = {
    "unlearn_beta": None,
    "unlearn_max_grad_norm": r"1(\.0)?",
    "unlearn_retain_fraction": r"1(\.0)?",
    "unlearn_rescore_every": "0",
    # 'constant' only with schedule 'early', where the rate does not decay.
    "unlearn_lr_scheduler": None,
    "forget_min_fraction": r"0?\.05",
    "forget_max_fraction": r"0?\.50?",
    "forget_trial_fraction": r"1(\.0)?",
    "confidence_engine": "batched",
    "confidence_strict": "false",
    "confidence_shard_size": r"\d+",
    "posterior_shard_size": r"\d+",
    "posterior_draws": "1",
    "elicitation_shard_size": r"\d+",
    "elicitation_top_p": r"1(\.0)?",
    "elicitation_vllm_gpu_memory_utilization": r"[\d.]+",
    "elicitation_cache_dir": None,
    "lora_alpha": r"\d+",
    "lora_dropout": r"0(\.0)?",
    "lm_eval_limit": None,
    "force": "false",
}
# Old setting -> (new mapping, name in it).
OPTIONS = {
    **{f"world_{name}": ("world_options", name) for name in
       ("train_share", "pretraining_steps", "label_noise", "harmful_share", "split")},
    **{f"baseline_{name}": ("baseline_options", name) for name in
       ("singular_values", "shrink", "noise", "steps", "positive_share")},
    "model_revision": ("model_init_kwargs", "revision"),
    "attn_implementation": ("model_init_kwargs", "attn_implementation"),
}  # fmt: skip
# (setting, value) -> what stands in its place; None: nothing, since it is the default.
VALUES = {
    ("forget_trials", "true"): "forget_trials: during",
    ("forget_trials", "false"): "forget_trials: none",
    ("forget_trial_first", "true"): "forget_trials: both",
    ("forget_trial_first", "false"): None,
    ("guard", "true"): "guard_margin: 0.5",
    ("guard", "false"): "guard_margin: null",
    ("posterior_parameter_space", "trainable"): None,
    ("posterior_parameter_space", "merged"): "posterior_parameters: merged",
    ("confidence_weights_placement", "resident"): None,
    ("confidence_weights_placement", "streamed"): "confidence_weights: streamed",
    ("confidence_weights_dtype", "float32"): None,
    ("confidence_weights_dtype", "bfloat16"): "confidence_weights: bfloat16",
    ("elicitation_do_sample", "false"): "elicitation_temperature: 0.0",
    ("elicitation_do_sample", "true"): "elicitation_temperature: 1.0",
    ("elicitation_backend", "transformers"): None,
    ("elicitation_backend", "server"): None,
    ("eval_generate", "true"): None,
    ("eval_generate", "false"): "eval_max_new_tokens: 0",
}
_ENTRY = r"(?P<name>[a-z]\w*): (?P<value>\[[^\]]*\]|\"[^\"]*\"|[^,{}#\n]*[^,{}#\n\s])"


class Unknown(ValueError):
    """A setting with a value that today's settings cannot say."""


def rewritten(name: str, value: str) -> str | None:
    """What stands in the place of `name: value`; None for nothing."""
    if (name, value) in VALUES:
        return VALUES[name, value]
    if name in REMOVED:
        valid = REMOVED[name]
        if valid is not None and not re.fullmatch(valid, value):
            raise Unknown(f"{name}: {value} has no equivalent: leave it out (the constant is {valid})")
        return None
    if name in OPTIONS:
        mapping, key = OPTIONS[name]
        if value.startswith("["):  # values to try, in the `tune` of a grid
            tried = ", ".join(f"{{{key}: {item.strip()}}}" for item in value[1:-1].split(","))
            return f"{mapping}: [{tried}]"
        return f"{mapping}: {{{key}: {value}}}"
    if name == "posterior_last_blocks":
        return f"posterior_parameters: last_blocks:{value}"
    if name == "posterior_parameter_pattern":
        return f"posterior_parameters: 'pattern:{value.strip(chr(34) + chr(39))}'"
    old = {setting for setting, _ in VALUES} | {"never_knew_model"}
    if name in old - {"forget_trials"}:
        raise Unknown(f"{name}: {value} has no equivalent")
    return f"{name}: {value}"


def rewrite_line(line: str) -> str | None:
    """A line of YAML under today's names; None for a line that goes."""
    if line.lstrip().startswith("#"):
        return line
    opening = line.find("{")
    if opening < 0:
        alone = re.match(rf"(?P<indent>\s*){_ENTRY}(?P<rest>.*\n?)$", line, re.DOTALL)
        if alone is None:
            return line
        new = rewritten(alone["name"], alone["value"])
        return None if new is None else f"{alone['indent']}{new}{alone['rest']}"

    def entry(found: re.Match[str]) -> str:
        new = rewritten(found["name"], found["value"])
        return "" if new is None else found["comma"] + new

    start = line[: opening + 1]
    rest = re.sub(rf"(?P<comma>(?:, )?)(?<![\w:]){_ENTRY}", entry, line[opening + 1 :])
    for mapping in {mapping for mapping, _ in OPTIONS.values()}:
        if rest.count(f"{mapping}: {{") > 1:
            raise Unknown(f"{line.strip()}: join the two {mapping} by hand")
    return start + rest.replace("{, ", "{").removeprefix(", ")


def rewrite(text: str) -> str:
    """The text of a recipe or grid under today's names."""
    lines = [rewrite_line(line) for line in text.splitlines(keepends=True)]
    text = "".join(line for line in lines if line is not None)
    # Of what one setting says now, the later of two that said it before.
    text = text.replace("forget_trials: during, forget_trials: both", "forget_trials: both")
    return re.sub(r"( *)forget_trials: during\n\1forget_trials: both\n", r"\1forget_trials: both\n", text)


def main(arguments: list[str]) -> int:
    """Rewrite or check the files; returns the exit code."""
    check = "--check" in arguments
    stale = []
    for name in (argument for argument in arguments if argument != "--check"):
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        try:
            new = rewrite(text)
        except Unknown as error:
            sys.exit(f"{name}: {error}")
        if new != text:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    print("\n".join(stale) or "nothing to rewrite")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
