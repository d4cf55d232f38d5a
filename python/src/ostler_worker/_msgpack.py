"""MessagePack without dependencies: what a stdio worker uses where the package `msgpack` is not installed.

The format is https://github.com/msgpack/msgpack/blob/master/spec.md. Maps have any hashable key, arrays become lists, and
extension values are handed to `ext_hook`.
"""

from __future__ import annotations

import struct
from typing import Any, Callable, NamedTuple, Optional


class Ext(NamedTuple):
    """An extension value: its type code, and its payload."""

    code: int
    data: bytes


class DecodeError(ValueError):
    """The bytes are not one complete MessagePack value."""


# Deeper values are refused, so that no input exhausts the stack.
DEPTH = 128


def pack(value: Any, default: Optional[Callable[[Any], Any]] = None) -> bytes:
    """The MessagePack bytes of `value`; `default` turns an unknown type into a known one."""
    out = bytearray()
    _pack(out, value, default, 0)
    return bytes(out)


def _pack(out: bytearray, value: Any, default: Optional[Callable[[Any], Any]], depth: int) -> None:
    if depth > DEPTH:
        raise ValueError(f"the value is nested deeper than {DEPTH} levels")
    kind = type(value)
    if value is None:
        out.append(0xC0)
    elif kind is bool:
        out.append(0xC3 if value else 0xC2)
    elif kind is int:
        _pack_int(out, value)
    elif kind is float:
        out += struct.pack(">Bd", 0xCB, value)
    elif kind is str:
        data = value.encode("utf-8")
        _pack_header(out, len(data), ((31, 0xA0),), ((0xFF, 0xD9, ">BB"), (0xFFFF, 0xDA, ">BH"), (0xFFFFFFFF, 0xDB, ">BI")))
        out += data
    elif kind in (bytes, bytearray, memoryview):
        size = value.nbytes if kind is memoryview else len(value)
        _pack_header(out, size, (), ((0xFF, 0xC4, ">BB"), (0xFFFF, 0xC5, ">BH"), (0xFFFFFFFF, 0xC6, ">BI")))
        out += value.cast("B") if kind is memoryview and value.nbytes else value
    elif kind in (list, tuple):
        _pack_header(out, len(value), ((15, 0x90),), ((0xFFFF, 0xDC, ">BH"), (0xFFFFFFFF, 0xDD, ">BI")))
        for item in value:
            _pack(out, item, default, depth + 1)
    elif kind is dict:
        _pack_header(out, len(value), ((15, 0x80),), ((0xFFFF, 0xDE, ">BH"), (0xFFFFFFFF, 0xDF, ">BI")))
        for key, item in value.items():
            _pack(out, key, default, depth + 1)
            _pack(out, item, default, depth + 1)
    elif kind is Ext:
        _pack_ext(out, value)
    elif default is not None:
        _pack(out, default(value), default, depth + 1)
    else:
        raise TypeError(f"a value of type {kind.__name__} cannot be encoded")


def _pack_int(out: bytearray, value: int) -> None:
    if 0 <= value < 0x80:
        out.append(value)
    elif -32 <= value < 0:
        out.append(value & 0xFF)
    elif value >= 0:
        for limit, code, form in (
            (0xFF, 0xCC, ">BB"), (0xFFFF, 0xCD, ">BH"), (0xFFFFFFFF, 0xCE, ">BI"), (0xFFFFFFFFFFFFFFFF, 0xCF, ">BQ"),
        ):
            if value <= limit:
                out += struct.pack(form, code, value)
                return
        raise OverflowError(f"{value} does not fit into 64 bits")
    else:
        for bits, code, form in ((7, 0xD0, ">Bb"), (15, 0xD1, ">Bh"), (31, 0xD2, ">Bi"), (63, 0xD3, ">Bq")):
            if value >= -(1 << bits):
                out += struct.pack(form, code, value)
                return
        raise OverflowError(f"{value} does not fit into 64 bits")


def _pack_header(
    out: bytearray, size: int, fixed: tuple[tuple[int, int], ...], forms: tuple[tuple[int, int, str], ...]
) -> None:
    for limit, base in fixed:
        if size <= limit:
            out.append(base | size)
            return
    for limit, code, form in forms:
        if size <= limit:
            out += struct.pack(form, code, size)
            return
    raise OverflowError(f"{size} elements are more than MessagePack can hold")


def _pack_ext(out: bytearray, value: Ext) -> None:
    size = len(value.data)
    fixed = {1: 0xD4, 2: 0xD5, 4: 0xD6, 8: 0xD7, 16: 0xD8}.get(size)
    if fixed is not None:
        out.append(fixed)
    else:
        _pack_header(out, size, (), ((0xFF, 0xC7, ">BB"), (0xFFFF, 0xC8, ">BH"), (0xFFFFFFFF, 0xC9, ">BI")))
    out += struct.pack(">b", value.code)
    out += value.data


def unpack(data: Any, ext_hook: Callable[[int, bytes], Any] = Ext) -> Any:
    """The one value that `data` holds; raises `DecodeError` when there is none, or more."""
    reader = _Reader(memoryview(data), ext_hook)
    try:
        value = reader.value(0)
    except (struct.error, UnicodeDecodeError) as error:
        raise DecodeError(f"not MessagePack at byte {reader.at}: {error}") from error
    if reader.at != len(reader.data):
        raise DecodeError(f"{len(reader.data) - reader.at} bytes follow the value")
    return value


class _Reader:
    def __init__(self, data: memoryview, ext_hook: Callable[[int, bytes], Any]) -> None:
        self.data = data
        self.at = 0
        self.ext_hook = ext_hook

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def take(self, size: int) -> memoryview:
        end = self.at + size
        if end > len(self.data):
            raise DecodeError(f"the value ends early: {size} bytes were announced, {len(self.data) - self.at} are left")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def value(self, depth: int) -> Any:
        if depth > DEPTH:
            raise DecodeError(f"the value is nested deeper than {DEPTH} levels")
        code = self.number(">B")
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code < 0x90:
            return self.map(code & 0x0F, depth)
        if code < 0xA0:
            return self.array(code & 0x0F, depth)
        if code < 0xC0:
            return str(self.take(code & 0x1F), "utf-8")
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        if code in _NUMBERS:
            return self.number(_NUMBERS[code])
        if code in _SIZED:
            kind, form = _SIZED[code]
            size = self.number(form)
            if kind == "str":
                return str(self.take(size), "utf-8")
            if kind == "bin":
                return bytes(self.take(size))
            if kind == "array":
                return self.array(size, depth)
            if kind == "map":
                return self.map(size, depth)
            return self.ext(size)
        if 0xD4 <= code <= 0xD8:
            return self.ext(1 << (code - 0xD4))
        raise DecodeError(f"byte {code:#x} begins no value")

    def array(self, size: int, depth: int) -> list[Any]:
        return [self.value(depth + 1) for _ in range(size)]

    def map(self, size: int, depth: int) -> dict[Any, Any]:
        result = {}
        for _ in range(size):
            key = self.value(depth + 1)
            try:
                result[key] = self.value(depth + 1)
            except TypeError as error:
                raise DecodeError(f"a map's key is {type(key).__name__}") from error
        return result

    def ext(self, size: int) -> Any:
        code = self.number(">b")
        return self.ext_hook(code, bytes(self.take(size)))


_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q",
    0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q",
}
_SIZED = {
    0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I"),
    0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I"),
    0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I"),
    0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I"),
}
