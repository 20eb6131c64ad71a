"""Entry point. Takes the working directory off the import path before anything is imported, so that no local module stands in for one of ours."""

import os
import sys

sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]

if __name__ == "__main__":
    from frazil_engine.main import main

    main()
