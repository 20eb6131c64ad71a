"""Python that comes inside plans: noticed when Polars loads it, and its exceptions kept as they were raised.

Polars hands an exception of user code on, but often as another one: made anew with more text and without its
traceback, or as text of an error of its own.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import types
from collections.abc import Callable, Generator, Iterator
from typing import Any

LoadedHook = Callable[[], None]

plain_loads = pickle.loads
this_thread = threading.local()


def loads(*arguments: Any, **named: Any) -> Any:
    """Stands in for `pickle.loads`, which Polars calls for every pickle in a plan."""
    hook: LoadedHook | None = getattr(this_thread, "hook", None)
    if hook is None:
        return plain_loads(*arguments, **named)
    try:
        hook()
    except BaseException as error:
        last_exception.keep(error)
        raise
    return keep_exceptions(plain_loads(*arguments, **named))


pickle.loads = loads  # pyright: ignore[reportAttributeAccessIssue]


@contextlib.contextmanager
def watch_loading(hook: LoadedHook) -> Iterator[None]:
    """While this thread reads a plan, `hook` is called before each pickle is loaded."""
    before = getattr(this_thread, "hook", None)
    this_thread.hook = hook
    try:
        yield
    finally:
        this_thread.hook = before


def text_of(error: BaseException) -> str:
    """Its message. Making it may run user code, which may fail in turn."""
    try:
        return str(error)
    except BaseException as failed:
        return f"(its message could not be made: {type(failed).__name__})"


class LastException:
    """The last exception that left user code. Queries with user code run one at a time."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    def forget(self) -> None:
        self._error = None

    def keep(self, error: BaseException) -> None:
        self._error = error

    def behind(self, error: BaseException) -> BaseException | None:
        """The exception of user code that this error reports; None when it reports none."""
        kept = self._error
        if kept is None or kept is error:
            return kept
        text, kept_text = text_of(error), text_of(kept)
        is_made_anew = type(error) is type(kept) or f"{type(kept).__name__}.__init__()" in text
        # One without a message is known by its name.
        return kept if is_made_anew or (kept_text or type(kept).__name__) in text else None


last_exception = LastException()


# Credential providers are asked for by their class.
UNWRAPPED_MODULES = ("polars.io.cloud",)


def keep_exceptions(loaded: Any) -> Any:
    """Something callable that does the same, and keeps what it raises. Anything else stays as it is."""
    if not callable(loaded) or isinstance(loaded, (type, Kept)):
        return loaded
    if type(loaded).__module__.startswith(UNWRAPPED_MODULES):
        return loaded
    return Kept(loaded)


class Kept:
    """Stands in for a callable, and keeps what it raises."""

    def __init__(self, wrapped: Callable[..., Any]) -> None:
        self.__wrapped__ = wrapped

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        try:
            return keep_exceptions_of_result(self.__wrapped__(*arguments, **named))
        except BaseException as error:
            last_exception.keep(error)
            raise

    def __getattr__(self, name: str) -> Any:
        # Asked for before it is there, it would be looked for in itself without end.
        if name == "__wrapped__":
            raise AttributeError(name)
        return getattr(self.__wrapped__, name)

    def __reduce__(self) -> tuple[Any, ...]:
        """A plan that was opened is written again where another one is grafted into it."""
        return Kept, (self.__wrapped__,)


def keep_exceptions_of_result(result: Any) -> Any:
    """Sources give a generator, alone or first in a tuple: what they raise comes while it is read."""
    if isinstance(result, types.GeneratorType):
        return follow(result)
    if isinstance(result, tuple) and result and isinstance(result[0], types.GeneratorType):
        return (follow(result[0]), *result[1:])
    return result


def follow(generator: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    try:
        yield from generator
    except GeneratorExit:
        # Nobody reads on, which is no failure.
        raise
    except BaseException as error:
        last_exception.keep(error)
        raise
