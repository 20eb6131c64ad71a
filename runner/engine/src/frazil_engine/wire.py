"""MessagePack with a bound on its nesting. The C unpacker refuses values nested deeper than 1,024, which Polars writes
for long chains of operators.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

# Above this, Polars itself can exhaust the stack of the process while it reads or optimises the plan.
WIRE_DEPTH_MAX = 3_000


class WireFault(Exception):
    """Bytes that are not MessagePack, or nested too deeply."""


def decode(data: bytes) -> Any:
    """Decodes exactly one value."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except msgpack.exceptions.StackError:
        return decode_deep(data)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise WireFault(str(error) or type(error).__name__) from None


def encode(value: Any) -> bytes:
    """Encodes one value. Values nested deeper than the C packer can hold raise WireFault."""
    try:
        return msgpack.Packer(use_bin_type=True).pack(value)
    except ValueError as error:
        raise WireFault(str(error)) from None


def end_of_value(data: bytes, start: int) -> int:
    """The offset behind the value that begins at `start`, without building it."""
    pending = 1
    # Each open container holds a place on this stack, as the count of values that are left in it.
    open_counts: list[int] = []
    offset = start
    while True:
        size, children = read_token(data, offset)
        offset += size
        if offset > len(data):
            raise WireFault("the bytes end in the middle of a value")
        pending -= 1
        if children:
            open_counts.append(pending)
            pending = children
            if len(open_counts) > WIRE_DEPTH_MAX:
                raise WireFault(f"values are nested deeper than {WIRE_DEPTH_MAX}")
        while pending == 0 and open_counts:
            pending = open_counts.pop()
        if pending == 0:
            return offset


def decode_deep(data: bytes) -> Any:
    """Decodes without recursion, one token at a time: slow, for values too deep for the C unpacker."""
    root: list[Any] = []
    # (container, values left, key of a map that waits for its value)
    stack: list[tuple[Any, int, Any]] = [(root, 1, None)]
    offset = 0
    while stack:
        container, left, key = stack.pop()
        if left == 0:
            continue
        size, children = read_token(data, offset)
        if offset + size > len(data):
            raise WireFault("the bytes end in the middle of a value")
        value = open_value(data, offset, size)
        is_key = isinstance(container, dict) and left % 2 == 0
        if is_key and isinstance(value, (dict, list)):
            raise WireFault("the key of a map is a container")
        if isinstance(container, list):
            container.append(value)
        elif not is_key:
            container[key] = value
        stack.append((container, left - 1, value if is_key else None))
        offset += size
        if children:
            stack.append((value, children, None))
            if len(stack) > WIRE_DEPTH_MAX:
                raise WireFault(f"values are nested deeper than {WIRE_DEPTH_MAX}")
    if offset != len(data):
        raise WireFault("bytes follow the value")
    return root[0]


def open_value(data: bytes, offset: int, size: int) -> Any:
    """The scalar of this token, or an empty container for its children."""
    first = data[offset]
    if 0x80 <= first <= 0x8F or first in (0xDE, 0xDF):
        return {}
    if 0x90 <= first <= 0x9F or first in (0xDC, 0xDD):
        return []
    return decode(data[offset : offset + size])


# First byte -> (width of the length field, bytes besides length field and content).
SIZED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
SIZED_EXT = {0xC7: 1, 0xC8: 2, 0xC9: 4}
FIXED = {
    0xC0: 1, 0xC2: 1, 0xC3: 1, 0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9,
    0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9, 0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18,
}  # fmt: skip
CONTAINERS = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
UNSIGNED = {1: struct.Struct(">B"), 2: struct.Struct(">H"), 4: struct.Struct(">I")}


def read_token(data: bytes, offset: int) -> tuple[int, int]:
    """Bytes of the token at `offset` (a container's without its children), and how many values follow inside it."""
    if offset >= len(data):
        raise WireFault("the bytes end in the middle of a value")
    first = data[offset]
    if first <= 0x7F or first >= 0xE0:
        return 1, 0
    if first <= 0x8F:
        return 1, 2 * (first & 0x0F)
    if first <= 0x9F:
        return 1, first & 0x0F
    if first <= 0xBF:
        return 1 + (first & 0x1F), 0
    if first in FIXED:
        return FIXED[first], 0
    if first in CONTAINERS:
        width, factor = CONTAINERS[first]
        return 1 + width, factor * read_length(data, offset + 1, width)
    if first in SIZED:
        width = SIZED[first]
        return 1 + width + read_length(data, offset + 1, width), 0
    if first in SIZED_EXT:
        width = SIZED_EXT[first]
        return 2 + width + read_length(data, offset + 1, width), 0
    raise WireFault(f"{first:#x} begins no value")


def read_length(data: bytes, offset: int, width: int) -> int:
    if offset + width > len(data):
        raise WireFault("the bytes end in the middle of a value")
    return UNSIGNED[width].unpack_from(data, offset)[0]
