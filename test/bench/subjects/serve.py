"""A subject is a process that is measured. Commands come as lines of JSON, and each is answered with one."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

ANSWERS_FD = 3
"""Not standard output: libraries print there."""


def serve(commands: dict[str, Callable[..., Any]]) -> None:
    with os.fdopen(ANSWERS_FD, "w") as answers:
        for line in sys.stdin:
            asked = json.loads(line)
            answer = commands[asked["command"]](**asked["arguments"])
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
