"""`npm run chaos -- --faults 2000 [--seed N]`: a long random run. Ends with a summary as JSON."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from installation import Installation, Setup
from random_run import RandomRun
from rounds import Chaos

SEED_MAX = 2**31


def main() -> int:
    parser = argparse.ArgumentParser(prog="npm run chaos --", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many things are broken (default: 200)")
    parser.add_argument("--seed", type=int, default=None, help="repeats the schedule of an earlier run")
    parser.add_argument("--queue", choices=("redis", "postgres"), default="redis", help="where BullMQ keeps messages")
    chosen = parser.parse_args()
    seed = chosen.seed if chosen.seed is not None else random.randrange(SEED_MAX)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="frazil-chaos-cache-") as cache:
        installation = Installation(Setup(queue=chosen.queue, planes=2), Path(cache))
        chaos = Chaos(installation)
        try:
            summary = RandomRun(chaos, seed).run(chosen.faults)
        finally:
            chaos.close()
            left = installation.stop()
    print(summary.text())
    for process in left:
        print(f"left behind: {process.command}")
    if summary.violations or left:
        print(f"again: npm run chaos -- --faults {chosen.faults} --queue {chosen.queue} --seed {seed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
