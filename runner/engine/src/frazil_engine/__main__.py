"""Entry point. Takes the working directory off the import path first: no local module may stand in for one of ours."""

import os
import sys

sys.path[:] = [entry for entry in sys.path if entry not in ("", os.getcwd())]

PR_SET_PDEATHSIG = 1


def end_with_agent() -> None:
    """Asks the kernel to end this process with its agent: native code that holds the interpreter is deaf to pipes."""
    agent = os.environ.get("FRAZIL_PARENT_PID")
    if agent is None:
        return
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    # The agent may have ended before the kernel was asked.
    if os.getppid() != int(agent):
        os._exit(0)


# A type that only the user's process has registered stays what it is. Releases before 2 would make it its storage type.
os.environ.setdefault("POLARS_UNKNOWN_EXTENSION_TYPE_BEHAVIOR", "load_as_extension")

if __name__ == "__main__":
    end_with_agent()
    from frazil_engine.main import main

    main()
