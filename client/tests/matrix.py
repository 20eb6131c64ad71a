"""Runs this suite against every Polars release line and Python version that the client supports.

    python tests/matrix.py [--venvs FOLDER] [pytest arguments]

Needs `uv` on PATH, which finds or fetches the Pythons. Environments are kept in FOLDER for the next time.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# Polars 2.1 needs Python 3.11.
COMBINATIONS = [("1.35.2", "3.10"), ("1.44.2", "3.10"), ("2.0.0", "3.12"), ("2.1.0", "3.11"), ("2.1.0", "3.13")]
CLIENT = Path(__file__).parents[1]


def prepare(folder: Path, polars: str, python: str) -> Path:
    """An environment with the client's dependencies, and its Python."""
    home = folder / f"polars-{polars}-python-{python}"
    executable = home / "bin" / "python"
    if not executable.exists():
        subprocess.run(["uv", "venv", "--quiet", "--python", python, str(home)], check=True)
    packages = [f"polars=={polars}", "urllib3>=2.2,<3", "cloudpickle>=3", "pytest>=8"]
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", str(executable), *packages], check=True)
    return executable


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--venvs", type=Path, default=Path(tempfile.gettempdir()) / "frazil-client-matrix")
    given, pytest_arguments = parser.parse_known_args()
    failed = []
    for polars, python in COMBINATIONS:
        print(f"Polars {polars}, Python {python}", flush=True)
        executable = prepare(given.venvs, polars, python)
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [str(executable), "-m", "pytest", "-p", "no:cacheprovider", *pytest_arguments]
        if subprocess.run(command, cwd=CLIENT, env=environment, check=False).returncode != 0:
            failed.append(f"Polars {polars} on Python {python}")
    print("\n".join(f"FAILED: {name}" for name in failed) or "all combinations passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
