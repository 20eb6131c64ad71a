"""Loads LazyFrames out of a user's Python file, and key expressions, for the command line.

Called as ``python load_frames.py REQUEST`` with a JSON object:

- ``script``: path of the file, or null;
- ``name``: name of the frame (or list of frames) in it, or null for the only one;
- ``many``: whether a list of frames is wanted;
- ``keys``: ``[{"name": ..., "expr": <Python source of a Polars expression>}]``.

Answers on file descriptor 3, so that the user's prints disturb nothing: one line of JSON, then the bytes of the frames
and keys that it lists, one after the other. The line holds ``error`` instead when there is nothing to send; an error of
the user's own code is shown on stderr as Python shows it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

ANSWER_FD = 3
NAMES_SHOWN_MAX = 30


class Refusal(Exception):
    """There is nothing to send; the message says why, the hint what to do."""

    def __init__(self, detail: str, hint: str | None = None) -> None:
        super().__init__(detail)
        self.hint = hint


class UserCodeFailed(Exception):
    """The user's code raised; its traceback was shown."""


def main() -> int:
    """Answers one request."""
    os.set_inheritable(ANSWER_FD, False)
    request = json.loads(sys.argv[1])
    parts: list[bytes] = []
    try:
        header = answer(request, parts)
    except Refusal as refusal:
        header, parts = {"error": {"kind": "refused", "detail": str(refusal), "hint": refusal.hint}}, []
    except UserCodeFailed as failure:
        header, parts = {"error": {"kind": "user_code", "detail": str(failure), "hint": None}}, []
    sys.stdout.flush()
    with os.fdopen(ANSWER_FD, "wb") as out:
        out.write(json.dumps(header).encode() + b"\n")
        for part in parts:
            out.write(part)
    return 0


def answer(request: dict[str, Any], parts: list[bytes]) -> dict[str, Any]:
    """The header of the answer; the bytes that it lists are appended to ``parts``."""
    pl = import_polars()
    frames: list[dict[str, Any]] = []
    keys: list[dict[str, Any]] = []
    module = load_script(Path(request["script"])) if request["script"] else None
    picked = [] if module is None else pick_frames(pl, module, request["name"], many=request["many"])
    exprs = [(key["name"], evaluate_key(pl, module, key["name"], key["expr"])) for key in request["keys"]]
    with own_modules_hidden(module):
        for name, frame in picked:
            parts.append(serialise(pl, name, frame.serialize))
            frames.append({"name": name, "bytes": len(parts[-1])})
        for name, expr in exprs:
            parts.append(serialise(pl, name, expr.meta.serialize))
            keys.append({"name": name, "bytes": len(parts[-1])})
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"polars": pl.__version__, "python": python, "frames": frames, "keys": keys}


def import_polars() -> Any:
    """Polars of the user's environment."""
    # The first entry is this file's own directory; the user's packages do not come from there.
    del sys.path[0]
    try:
        import polars as pl
    except ImportError as error:
        raise Refusal(
            f"{sys.executable} can't import polars: {error}",
            "name the Python of your project with --python or FRAZIL_PYTHON, or install polars there",
        ) from None
    return pl


def load_script(path: Path) -> ModuleType:
    """Imports the file: it finds its neighbours as under ``python file.py``, but its ``__name__`` is its own."""
    sys.path.insert(0, str(path.resolve().parent))
    sys.argv = [str(path)]
    free = path.stem.isidentifier() and path.stem not in sys.modules and path.stem not in sys.stdlib_module_names
    name = path.stem if free else "frazil_script"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refusal(f"{path} can't be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as error:
        raise UserCodeFailed(
            f"{path} ended itself with exit code {error.code!r} before it was read to its end"
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        show_error(error)
        raise UserCodeFailed(f"{path} raised {type(error).__name__}") from None
    return module


def show_error(error: BaseException) -> None:
    """Prints the error as Python would have, without the lines of this file and of the import system."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename.startswith((__file__, "<frozen importlib")):
        frame = frame.tb_next
    sys.stdout.flush()
    traceback.print_exception(type(error), error, frame)


@contextmanager
def own_modules_hidden(script: ModuleType | None) -> Iterator[None]:
    """Has functions of the script, and of the modules beside it, pickled whole: the engine does not have these files.

    Polars tries plain pickle first, which stores a function as the name of its module. That fails while the module
    can't be imported, and then Polars takes cloudpickle, which stores the function itself.
    """
    if script is None or script.__file__ is None:
        yield
        return
    folder = Path(script.__file__).resolve().parent
    own = {name: module for name, module in list(sys.modules.items()) if is_own(module, folder)}
    path = sys.path[:]
    register_by_value(own.values())
    for name in own:
        del sys.modules[name]
    sys.path[:] = [entry for entry in path if Path(entry or os.curdir).resolve() != folder]
    try:
        yield
    finally:
        sys.modules.update(own)
        sys.path[:] = path


def is_own(module: ModuleType, folder: Path) -> bool:
    """Whether the module's file lies with the script, and not in an environment below it."""
    file = getattr(module, "__file__", None)
    if not file or module.__name__ == "__main__":
        return False
    path = Path(file).resolve()
    return path.is_relative_to(folder) and not {"site-packages", "dist-packages"} & set(path.parts)


def register_by_value(modules: Iterable[ModuleType]) -> None:
    """Also where a function mentions such a module as a whole."""
    try:
        import cloudpickle
    except ImportError:
        return
    for module in modules:
        cloudpickle.register_pickle_by_value(module)


def pick_frames(pl: Any, module: ModuleType, name: str | None, *, many: bool) -> list[tuple[str, Any]]:
    """The frames asked for, each with a name to show."""
    if name is not None:
        return named_frames(pl, module, name, many=many)
    singles = {key: value for key, value in public_values(module).items() if isinstance(value, pl.LazyFrame)}
    lists = {key: value for key, value in public_values(module).items() if is_list_of_frames(pl, value)}
    if many and len(lists) == 1:
        name, found = next(iter(lists.items()))
        return list_frames(name, found)
    if len(singles) == 1 and not (many and lists):
        return list(singles.items())
    file = module.__file__
    if not singles and not lists:
        raise Refusal(f"{file} holds no LazyFrame at its top level", "give the query a name, such as `query = ...`")
    names = ", ".join(list((lists | singles) if many else singles)[:NAMES_SHOWN_MAX])
    if not singles and not many:
        raise Refusal(
            f"{file} holds no single LazyFrame, but lists: {', '.join(lists)}", "run a list with `pc spawn-many`"
        )
    raise Refusal(f"{file} holds more than one LazyFrame: {names}", f"say which: {file}:NAME")


def named_frames(pl: Any, module: ModuleType, name: str, *, many: bool) -> list[tuple[str, Any]]:
    """The frame or frames under a name of the module."""
    if not hasattr(module, name):
        known = [key for key, value in public_values(module).items() if is_frame_or_list(pl, value)]
        hint = f"there are: {', '.join(known[:NAMES_SHOWN_MAX])}" if known else None
        raise Refusal(f"{module.__file__} has no {name}", hint)
    value = getattr(module, name)
    if isinstance(value, pl.DataFrame):
        value = value.lazy()
    if isinstance(value, pl.LazyFrame):
        return [(name, value)]
    if is_list_of_frames(pl, value):
        if many:
            return list_frames(name, value)
        raise Refusal(f"{name} in {module.__file__} is a list of {len(value)} frames", "run them with `pc spawn-many`")
    raise Refusal(
        f"{name} in {module.__file__} is {describe(value)}, not a LazyFrame{' or a list of them' if many else ''}"
    )


def list_frames(name: str, frames: Any) -> list[tuple[str, Any]]:
    """Frames of a list or dict with the names to show for them."""
    if isinstance(frames, dict):
        return [(f"{name}[{key!r}]", frame) for key, frame in frames.items()]
    return [(f"{name}[{index}]", frame) for index, frame in enumerate(frames)]


def public_values(module: ModuleType) -> dict[str, Any]:
    """Top-level values of a script, but for names that begin with an underscore."""
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def is_list_of_frames(pl: Any, value: Any) -> bool:
    """Whether it is a non-empty list, tuple or dict of LazyFrames."""
    items = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (list, tuple, dict)) or not value:
        return False
    return all(isinstance(item, pl.LazyFrame) for item in items)


def is_frame_or_list(pl: Any, value: Any) -> bool:
    """Whether it could be sent."""
    return isinstance(value, (pl.LazyFrame, pl.DataFrame)) or is_list_of_frames(pl, value)


def describe(value: Any) -> str:
    """A value's kind in words."""
    if isinstance(value, (list, tuple, dict)):
        return f"an empty {type(value).__name__}" if not value else f"a {type(value).__name__} with other things in it"
    return "a function (call it, and give its result a name)" if callable(value) else f"of type {type(value).__name__}"


def serialise(pl: Any, name: str, write: Callable[[], bytes]) -> bytes:
    """Polars' own bytes of a plan or an expression."""
    try:
        return write()
    except pl.exceptions.PolarsError as error:
        raise Refusal(f"{name} can't travel to another machine: {error}") from None


def evaluate_key(pl: Any, module: ModuleType | None, name: str, source: str) -> Any:
    """The expression of a partition key."""
    names = {"pl": pl, "polars": pl, "col": pl.col, "lit": pl.lit, **(vars(module) if module is not None else {})}
    try:
        expr = eval(compile(source, f"<--partition-by {name}>", "eval"), names)
    except Exception as error:
        raise Refusal(f"--partition-by {name}={source}: {type(error).__name__}: {error}") from None
    if not isinstance(expr, pl.Expr):
        raise Refusal(
            f"--partition-by {name}={source}: this is {describe(expr)}, not a Polars expression",
            'write it such as year=pl.col("day").dt.year()',
        )
    return expr.alias(name)


if __name__ == "__main__":
    sys.exit(main())
