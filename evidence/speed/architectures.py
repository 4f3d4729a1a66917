"""Write docs/architectures.md: the engine's measured errors on every architecture that it claims.

Run from the root of the checkout: `python evidence/speed/architectures.py`.
"""

import logging
import warnings
from importlib.metadata import version
from pathlib import Path

from graceful_forgetting.lab.bench.architectures import ARCHITECTURES, Equivalence, measure, random_rows
from graceful_forgetting.results.text import fixed
from graceful_forgetting.results.text_tables import markdown_table
from graceful_forgetting.runtime.artifacts import write_text

ROWS = 24
PAGE = Path("docs/architectures.md")

INTRODUCTION = """# Architectures

<!-- Written by evidence/speed/architectures.py. Do not edit. -->

The batched engine against the oracle (`gradients/oracle.py`, one backward pass a sample) on tiny random models, 2
layers of width 32, {rows} rows of 2 to 24 tokens in one batch, V random and F ≥ 0 random. torch {torch}, transformers
{transformers}, peft {peft}, CPU.

- **Errors** are the largest over the rows: L(x) and Σ F g² relative to each row's own value; ⟨V, g⟩, which may cancel
  to almost nothing in one row, relative to its largest over the rows. float32 accumulates to about 1e-6.
- **left**: the same rows padded on the left; **checkpointing**: with gradient checkpointing enabled on the model.
- **bfloat16**: the model rounded to bfloat16, scored by the engine, against the float32 oracle on the same rounded
  weights. **its oracle**: what bfloat16 arithmetic does to the oracle itself; no engine can be expected to be closer
  than that. **ρ**: Spearman's rank correlation of Σ F g² between engine in bfloat16 and oracle in float32.
- **Slow path**: parameters that no batched rule covers. They are exact too, and are announced by name.
  *module*: the module is run once more for every sample; *model*: one backward pass of the model for every sample.
"""

COLUMNS = ("architecture", "right", "left", "checkpointing", "bfloat16", "its oracle", "ρ", "slow path")


def main() -> None:
    """Measure every architecture and write the page."""
    logging.getLogger("graceful_forgetting").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    rows = random_rows(ROWS)
    lines = []
    for name in ARCHITECTURES:
        lines.append(_cells(name, measure(name, rows)))
        print(*lines[-1], flush=True)
    versions = {package: version(package) for package in ("torch", "transformers", "peft")}
    write_text(PAGE, f"{INTRODUCTION.format(rows=ROWS, **versions)}\n{markdown_table(COLUMNS, lines)}\n")


def _cells(name: str, found: Equivalence) -> list[str]:
    numbers = [f"{value:.1e}" for value in found[:5]]
    return [name, *numbers, fixed(found.rank_correlation, 4), _slow(found.slow)]


def _slow(slow: dict[str, str]) -> str:
    """The last parts of the names, each once, by path."""
    if not slow:
        return "none"
    parts = []
    for path in sorted(set(slow.values())):
        ends = {".".join(name.split(".")[-2:]) for name, taken in slow.items() if taken == path}
        parts.append(f"{path}: {', '.join(f'`{end}`' for end in sorted(ends))}")
    return "; ".join(parts)


if __name__ == "__main__":
    main()
