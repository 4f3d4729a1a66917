"""Checks a wheel and an sdist: what they must hold and must not, and that the sdist builds the same wheel.

    python release/check_distributions.py dist     exit 1 with one line a fault

The second takes `build` (`pip install build`) and a few seconds.
"""

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "graceful_forgetting"
# Of a checkout, beside the package, in the sdist alone.
SDIST_ALSO = ("tests/conftest.py", "docs/index.md", "recipes/gsm8k_forget_dental.yaml", "constraints.txt", "Makefile")
NEVER = ("__pycache__", ".pyc", ".so", ".ipynb_checkpoints", ".pytest_cache", ".hypothesis", "/.venv/")


def package_files() -> set[str]:
    """Every file of the package in this checkout, as the wheel names it."""
    files = (path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(PACKAGE.parent).as_posix() for path in files}


def wheel_contents(wheel: Path) -> dict[str, int]:
    """Checksum by name, without the lists that tools write."""
    with zipfile.ZipFile(wheel) as archive:
        return {item.filename: item.CRC for item in archive.infolist() if not item.filename.endswith("/RECORD")}


def wheel_faults(names: set[str], package: set[str]) -> list[str]:
    """What the wheel lacks of the package, and what it holds beside it and its metadata."""
    faults = [f"the wheel lacks {name}" for name in sorted(package - names)]
    extra = (name for name in names - package if not PurePosixPath(name).parts[0].endswith(".dist-info"))
    return faults + [f"the wheel holds {name}, which is no file of the package" for name in sorted(extra)]


def sdist_faults(names: set[str], package: set[str]) -> list[str]:
    """What the sdist lacks of the package and of the checkout, and caches that it holds."""
    wanted = {f"src/{name}" for name in package} | set(SDIST_ALSO)
    faults = [f"the sdist lacks {name}" for name in sorted(wanted - names)]
    return faults + [f"the sdist holds {name}" for name in sorted(names) if _is_unwanted(name)]


def _is_unwanted(name: str) -> bool:
    # A checkout's own runs, not the room of that name.
    return name.startswith("runs/") or any(part in f"/{name}" for part in NEVER)


def sdist_names(sdist: Path) -> set[str]:
    """Names below the folder of the sdist."""
    with tarfile.open(sdist) as archive:
        return {"/".join(PurePosixPath(name).parts[1:]) for name in archive.getnames()}


def same_wheel_faults(wheel: Path, sdist: Path) -> list[str]:
    """Files in which the wheel that the sdist builds differs from this one."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        (unpacked,) = Path(folder).iterdir()
        command = [sys.executable, "-m", "build", "--wheel", "--outdir", f"{folder}/dist", str(unpacked)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        (rebuilt,) = Path(folder, "dist").iterdir()
        ours, theirs = wheel_contents(wheel), wheel_contents(rebuilt)
    differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return [f"the wheel that the sdist builds differs in {name}" for name in differing]


def main() -> int:
    folder = Path(sys.argv[1])
    (wheel,), (sdist,) = list(folder.glob("*.whl")), list(folder.glob("*.tar.gz"))
    package, names = package_files(), set(wheel_contents(wheel))
    faults = wheel_faults(names, package) + sdist_faults(sdist_names(sdist), package)
    faults += same_wheel_faults(wheel, sdist)
    for fault in faults:
        print(fault)
    if not faults:
        megabytes = wheel.stat().st_size / 1e6
        print(f"{wheel.name}: {len(names)} files, {megabytes:.1f} MB; the sdist holds the package and builds the same")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
