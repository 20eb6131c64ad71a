"""Names of partition directories: `column=value`, escaped so that two different keys never share a path."""

from __future__ import annotations

import hashlib
import re

from frazil_engine.errors import Failure

NULL_VALUE = "__HIVE_DEFAULT_PARTITION__"
# Longest name that file systems take, in bytes, and what of a longer one is kept before its hash.
NAME_BYTES_MAX = 255
KEPT_BYTES = 180
HASH_CHARS = 32
# Characters that stay as they are: letters and digits of every script, and what neither file systems nor shells nor
# URLs treat specially.
PLAIN = re.compile(r"[\w.,+@~-]", re.UNICODE)


def partition_path(values: dict[str, str | None]) -> str:
    """`day=2024-01-01/x=a%2Fb` of column names and values as text; None is a null."""
    return "/".join(partition_name(name, value) for name, value in values.items())


def partition_name(name: str, value: str | None) -> str:
    """One directory's name, of at most 255 bytes."""
    text = f"{escape(name)}={NULL_VALUE if value is None else escape_value(value)}"
    encoded = text.encode("utf-8")
    if len(encoded) <= NAME_BYTES_MAX:
        return text
    digest = hashlib.sha256(f"{name}\0{value}".encode("utf-8", "surrogatepass")).hexdigest()[:HASH_CHARS]
    # The hash is set apart by a character that escaping leaves in no other name.
    return f"{cut(encoded)}%~{digest}"


def cut(encoded: bytes) -> str:
    """The beginning, ended neither inside a character nor inside an escape."""
    text = encoded[:KEPT_BYTES].decode("utf-8", "ignore")
    return re.sub(r"%[0-9A-F]?$", "", text)


def escape_value(value: str) -> str:
    """A text that looks like the name of null is not null."""
    if value == NULL_VALUE:
        return "%5F" + NULL_VALUE[1:]
    return escape(value)


def escape(text: str) -> str:
    """Percent-encodes the UTF-8 bytes of everything but plain characters. `.` alone and `..` are encoded too."""
    if text in (".", ".."):
        return "%2E" * len(text)
    return "".join(char if PLAIN.match(char) else percent(char) for char in text)


def percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def check_partition(names: list[str]) -> None:
    """A path of a task must lead below the destination and nowhere else."""
    for name in names:
        if (
            name in ("", ".", "..")
            or "=" not in name
            or "\0" in name
            or "/" in name
            or len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX
        ):
            raise Failure("invalid_request", "The partition path of a task is not made of column=value names.")
