"""The tests that rounding could break, on processors that this one simulates.

    python tests/processors.py             every combination of COMBINATIONS, every test of TESTS
    python tests/processors.py --quick     the first combination, the tests of QUICK
    python tests/processors.py <name> ...  these combinations

PyTorch, oneDNN, MKL and the compiled kernel choose their code by the processor, and with it the order in which they
sum. Each has an environment variable that has it take the code of an older one. Simulated is the rounding alone, not
the speed; and MKL's own code for AMD is out of reach.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Intel and AMD with AVX2 but without AVX-512. The first two alone leave MKL, which multiplies matrices, as it is.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# No vectors in PyTorch, and those of 2001 in MKL: no fused multiplications, which is as different as it gets.
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "COMPATIBLE"}
# The code of `kernels/tiles.c` for eight lanes in place of sixteen; and torch in its place.
NARROW, OFF = {"GRACEFUL_CPU_KERNEL": "x86-64-v3"}, {"GRACEFUL_CPU_KERNEL": "0"}
# Two threads that wait for each other by spinning are ten times as slow on a machine that does something else, too.
ONE, TWO = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}

# Every pair of values of the three is in one of them.
COMBINATIONS: dict[str, dict[str, str]] = {
    "plain-narrow-2": PLAIN | NARROW | TWO,
    "plain-off-1": PLAIN | OFF | ONE,
    "avx2-narrow-1": AVX2 | NARROW | ONE,
    "avx2-off-2": AVX2 | OFF | TWO,
}
TESTS = ["tests/equivalence", "tests/invariant"]
# Those of TESTS with the least room between what rounding does and what they allow.
QUICK = [
    "tests/equivalence/test_baselines.py",
    "tests/equivalence/test_cpu_kernel.py",
    "tests/equivalence/test_fisher.py",
    "tests/equivalence/test_scorers.py",
    "tests/equivalence/test_tofu.py",
]


def run(name: str, tests: list[str]) -> bool:
    """Whether the tests pass under that combination."""
    settings = COMBINATIONS[name]
    print(f"\n== {name}: {' '.join(f'{key}={value}' for key, value in settings.items())}", flush=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "-r", "f", "-p", "no:cacheprovider", *tests]
    if settings["OMP_NUM_THREADS"] == "1":
        command += ["-n", "2"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"} | settings
    passed = subprocess.run(command, cwd=ROOT, env=environment).returncode == 0
    print(f"== {name}: {'passed' if passed else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
    return passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(COMBINATIONS)}")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(COMBINATIONS):
        parser.error(f"no combination {', '.join(sorted(unknown))}; there are {', '.join(COMBINATIONS)}")
    names = arguments.names or list(COMBINATIONS)[: 1 if arguments.quick else None]
    failed = [name for name in names if not run(name, QUICK if arguments.quick else TESTS)]
    if failed:
        raise SystemExit(f"\nFAILED on: {', '.join(failed)}")


if __name__ == "__main__":
    main()
