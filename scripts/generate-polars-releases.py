"""Makes contracts/src/generated/polars-releases.json: the schema hash of every Polars release that Frazil runs.

Each release is installed with `uv` into a throwaway folder and asked to serialise an empty query. The number in the
plan's header is the same for all of them, so the hash alone tells which release can open a plan. Releases already in
the file keep their entry unless `--all` is given.

    python scripts/generate-polars-releases.py [--all] [--oldest 1.35.0] [--newest 2.1.0]

`uv` and `pip` are the only tools needed (`pip install uv`).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "contracts" / "src" / "generated" / "polars-releases.json"
INSTALL_TIMEOUT_SECONDS = 600
# `DSL_VERSION`, two little-endian u16, then 64 hex characters.
HASH_START, HASH_END = 15, 79
PRINT_HASH = f"import polars as pl; print(pl.LazyFrame().serialize()[{HASH_START}:{HASH_END}].decode('ascii'))"

Version = tuple[int, ...]


def main() -> None:
    """Completes the file and prints what it found."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--oldest", default="1.35.0")
    arguments.add_argument("--newest", default="2.1.0")
    arguments.add_argument("--all", action="store_true", help="install every release again")
    chosen = arguments.parse_args()
    known = {} if chosen.all else read_known()
    releases = []
    for version in list_versions(chosen.oldest, chosen.newest):
        schema_hash = known.get(version) or read_schema_hash(version)
        print(f"{version} {schema_hash}", flush=True)
        releases.append({"version": version, "schemaHash": schema_hash})
    TARGET.write_text("[\n" + ",\n".join(f"  {json.dumps(release)}" for release in releases) + "\n]\n")


def read_known() -> dict[str, str]:
    """Entries of today's file."""
    if not TARGET.exists():
        return {}
    entries = json.loads(TARGET.read_text())
    return {entry["version"]: entry["schemaHash"] for entry in entries if set(entry["schemaHash"]) != {"0"}}


def list_versions(oldest: str, newest: str) -> list[str]:
    """Final releases that the package index offers between the two, oldest first."""
    command = [sys.executable, "-m", "pip", "index", "versions", "polars"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS).stdout
    listed = re.search(r"Available versions: (.*)", answer)
    if listed is None:
        raise SystemExit(f"pip listed no versions of polars:\n{answer}")
    versions = [version.strip() for version in listed.group(1).split(",")]
    final = [version for version in versions if re.fullmatch(r"\d+\.\d+\.\d+", version)]
    return sorted((v for v in final if as_version(oldest) <= as_version(v) <= as_version(newest)), key=as_version)


def as_version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def read_schema_hash(version: str) -> str:
    """Installs one release apart from everything else and reads the hash out of a plan that it wrote."""
    with tempfile.TemporaryDirectory(prefix="polars-release-") as folder:
        install = [
            "uv",
            "pip",
            "install",
            "--quiet",
            "--no-cache",
            "--python",
            sys.executable,
            "--target",
            folder,
            f"polars=={version}",
        ]
        subprocess.run(install, check=True, timeout=INSTALL_TIMEOUT_SECONDS)
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r}); {PRINT_HASH}"]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_SECONDS)
    schema_hash = answer.stdout.strip()
    if not re.fullmatch(r"[0-9a-f]{64}", schema_hash):
        raise SystemExit(f"polars {version} wrote a plan header that is not understood: {schema_hash!r}")
    return schema_hash


if __name__ == "__main__":
    main()
