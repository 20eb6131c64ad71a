"""Runs the engine's tests on several Polars releases and Python versions, each in an environment of its own.

    python runner/engine/tests/matrix.py                              every release, on this Python
    python runner/engine/tests/matrix.py --polars 1.44.2 --python 3.10 3.13 -- -k results

Environments are made by `uv` on first use and kept below `$FRAZIL_TEST_ENVS`, by default `~/.cache/frazil-test-envs`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

RELEASES = ["1.35.2", "1.44.2", "2.0.0", "2.1.0"]
ENGINE = Path(__file__).resolve().parent.parent
REQUIREMENTS = ENGINE / "src" / "frazil_engine" / "requirements.txt"
# Later releases of cloudpickle leave out the file of a function, which a client of ours puts back (client/_plans.py).
TOOLS = ["pytest", "numpy", "cloudpickle==3.1.2"]
INSTALL_SECONDS_MAX = 600
TESTS_SECONDS_MAX = 1_800


def main() -> None:
    """Runs the matrix and ends with 1 when a part of it has failed."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--polars", nargs="+", default=RELEASES)
    arguments.add_argument("--python", nargs="+", default=[f"{sys.version_info.major}.{sys.version_info.minor}"])
    arguments.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    chosen = arguments.parse_args()
    failed = []
    for python in chosen.python:
        for release in chosen.polars:
            print(f"Python {python}, Polars {release}", flush=True)
            if run_tests(make_environment(python, release), ["-q", *chosen.pytest]).returncode != 0:
                failed.append(f"Python {python}, Polars {release}")
    print(f"failed: {'; '.join(failed)}" if failed else "all passed")
    sys.exit(1 if failed else 0)


def make_environment(python: str, release: str) -> Path:
    """The interpreter of an environment with this release. Raises when none can be made."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise FileNotFoundError("uv is not installed")
    folder = (
        Path(os.environ.get("FRAZIL_TEST_ENVS") or Path.home() / ".cache" / "frazil-test-envs") / f"{python}-{release}"
    )
    interpreter = folder / "bin" / "python"
    done = folder / "made-with.txt"
    wanted = f"{REQUIREMENTS.read_text()}{TOOLS}"
    if not done.exists() or done.read_text() != wanted:
        install(uv, "venv", "--clear", "--python", python, str(folder))
        packages = [f"polars=={release}", "-r", str(REQUIREMENTS), *TOOLS]
        install(uv, "pip", "install", "--python", str(interpreter), *packages)
        done.write_text(wanted)
    return interpreter


def install(*command: str) -> None:
    subprocess.run([*command, "--quiet"], check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS_MAX)


def run_tests(interpreter: Path, arguments: list[str], quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Runs the tests of this folder with another interpreter."""
    command = [str(interpreter), "-m", "pytest", "-p", "no:cacheprovider", str(ENGINE / "tests"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, cwd=ENGINE, env=environment, capture_output=quiet, text=True, timeout=TESTS_SECONDS_MAX, check=False
    )


if __name__ == "__main__":
    main()
