"""From Python values to MessagePack and back: plain data, times, numpy arrays, Arrow tables, large bytes."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import sys
import uuid
from typing import Any, Callable, Optional

from . import _msgpack, _shared

EXT_ARRAY = 1
EXT_SHARED = 2
EXT_ARROW = 3
EXT_TIME = -1

Lend = Callable[[memoryview], Optional[_shared.Reference]]
"""Puts bytes into shared memory for the one to whom the frame goes; None: send them inline."""

# Bytes are looked for at this depth of a value and above: its own level, that of its members, and that of theirs.
_DEPTH = 3
_WIDTH = 1024

_pack: Callable[[Any, Callable[[Any], Any]], bytes]
_unpack: Callable[[Any, Callable[[int, bytes], Any]], Any]
_ext: Callable[[int, bytes], Any]
try:
    import msgpack
except ImportError:
    ENGINE = "python"
    _pack, _unpack, _ext = _msgpack.pack, _msgpack.unpack, _msgpack.Ext
    _decode_errors: tuple[type[Exception], ...] = (_msgpack.DecodeError,)
else:
    ENGINE = "msgpack"

    def _pack(value: Any, default: Callable[[Any], Any]) -> bytes:
        packed: bytes = msgpack.packb(value, default=default, use_bin_type=True, strict_types=True)
        return packed

    def _unpack(data: Any, ext_hook: Callable[[int, bytes], Any]) -> Any:
        # timestamp=3: times with a zone become datetime in UTC, as `_restore_time` has it.
        return msgpack.unpackb(data, ext_hook=ext_hook, raw=False, strict_map_key=False, timestamp=3)

    _ext = msgpack.ExtType
    _decode_errors = (ValueError, TypeError, msgpack.exceptions.UnpackException)


class Undecodable(ValueError):
    """A frame is not MessagePack, or one of its values cannot be restored here."""


def encode(value: Any, lend: Optional[Lend] = None, minimum: int = _shared.DEFAULT_MIN) -> bytes:
    """MessagePack of `value`; bytes and arrays of at least `minimum` bytes go through `lend`."""
    return _encode(value, lend, minimum)[0]


def encode_frame(frame: dict[str, Any], lend: Optional[Lend], minimum: int) -> bytes:
    """MessagePack of a frame. Where it refers to shared memory, its field `segments` lists the references: the receiver can
    open them before it knows what the frame holds."""
    body, references = _encode(frame, lend, minimum)
    # A map of less than 15 entries has its length in its first byte.
    if references and 0x80 <= body[0] < 0x8F:
        listed = _pack([reference.to_map() for reference in references], _no_default)
        return bytes([body[0] + 1]) + body[1:] + _pack("segments", _no_default) + listed
    return body


def _no_default(value: Any) -> Any:
    raise TypeError(f"{type(value).__name__} is no plain value")


def _encode(value: Any, lend: Optional[Lend], minimum: int) -> tuple[bytes, list[_shared.Reference]]:
    encoder = _Encoder(lend, minimum)
    if lend is not None:
        value = encoder.lift(value, _DEPTH)
    return _pack(value, encoder.default), encoder.references


class Broken:
    """Stands for a value that cannot be restored here: the frame around it is still good."""

    def __init__(self, error: Exception) -> None:
        self.error = error


@dataclasses.dataclass
class Findings:
    """What `decode` came across."""

    broken: list[Broken] = dataclasses.field(default_factory=list)
    """Values that cannot be restored: shared memory whose sender is gone, an array without numpy."""
    segments: list[int] = dataclasses.field(default_factory=list)
    """Inode numbers of the shared memory that was mapped: its sender may let go of it now."""


def decode(data: Any, findings: Optional[Findings] = None) -> Any:
    """The value of a frame. Raises `Undecodable` where it is not MessagePack.

    A value inside it that cannot be restored goes to the findings, or is raised where there are none.
    """

    def restore(code: int, payload: bytes) -> Any:
        try:
            return _restore(code, payload, restore, findings)
        except Exception as error:
            if findings is None:
                raise
            findings.broken.append(Broken(error))
            return findings.broken[-1]

    try:
        return _unpack(data, restore)
    except _decode_errors as error:
        raise Undecodable(str(error) or type(error).__name__) from error


class _Encoder:
    def __init__(self, lend: Optional[Lend], minimum: int) -> None:
        self.lend = lend
        self.minimum = minimum
        self.references: list[_shared.Reference] = []

    def lift(self, value: Any, depth: int) -> Any:
        """Replaces large bytes near the top; a packer would copy them without asking."""
        if isinstance(value, (bytes, bytearray, memoryview)):
            view = memoryview(value)
            return value if view.nbytes < self.minimum else self.blob(view)
        if depth and type(value) in (list, tuple) and len(value) <= _WIDTH:
            return [self.lift(item, depth - 1) for item in value]
        if depth and type(value) is dict and len(value) <= _WIDTH:
            return {key: self.lift(item, depth - 1) for key, item in value.items()}
        return value

    def blob(self, view: memoryview) -> Any:
        if self.lend is not None and view.nbytes >= self.minimum:
            reference = self.lend(view)
            if reference is not None:
                self.references.append(reference)
                return _ext(EXT_SHARED, _pack(reference.to_map(), self.default))
        return view if view.contiguous and view.format == "B" and view.ndim == 1 else view.tobytes()

    def default(self, value: Any) -> Any:
        """A value of a type that MessagePack does not know."""
        numpy = sys.modules.get("numpy")
        if numpy is not None:
            if isinstance(value, numpy.ndarray):
                return self.array(numpy, value)
            if isinstance(value, numpy.generic):
                return value.item()
        pyarrow = sys.modules.get("pyarrow")
        if pyarrow is not None and isinstance(value, (pyarrow.Table, pyarrow.RecordBatch)):
            return self.arrow(pyarrow, value)
        if isinstance(value, datetime.datetime):
            return _time_ext(value)
        if isinstance(value, enum.Enum):
            return value.value
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if isinstance(value, (tuple, list, set, frozenset)):
            return list(value)
        if isinstance(value, dict):
            return dict(value)
        if isinstance(value, (str, int, float)):  # subclasses
            return _plain(value)
        if isinstance(value, (datetime.date, datetime.time, decimal.Decimal, uuid.UUID)):
            return str(value)
        dump = getattr(value, "model_dump", None)  # pydantic
        if callable(dump):
            return dump()
        raise TypeError(
            f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be sent: return plain data, "
            "a dataclass, a numpy array or an Arrow table"
        )

    def array(self, numpy: Any, value: Any) -> Any:
        if value.dtype.hasobject:
            raise TypeError("an array of Python objects cannot be sent: give it a numeric dtype")
        flat = numpy.ascontiguousarray(value)
        view = memoryview(flat.reshape(-1).view("u1")) if flat.nbytes else memoryview(b"")
        payload = [flat.dtype.str, list(value.shape), self.blob(view)]
        return _ext(EXT_ARRAY, _pack(payload, self.default))

    def arrow(self, pyarrow: Any, value: Any) -> Any:
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, value.schema) as writer:
            writer.write(value)
        return _ext(EXT_ARROW, _pack(self.blob(memoryview(sink.getvalue())), self.default))


def _plain(value: Any) -> Any:
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise AssertionError("unreachable")


def _time_ext(value: datetime.datetime) -> Any:
    if value.tzinfo is None:
        return value.isoformat()
    since = value - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    seconds = since.days * 86400 + since.seconds
    if ENGINE == "msgpack":
        return msgpack.Timestamp(seconds, since.microseconds * 1000)
    payload = (since.microseconds * 1000).to_bytes(4, "big") + seconds.to_bytes(8, "big", signed=True)
    return _ext(EXT_TIME, payload)


def _restore(code: int, data: bytes, nested: Callable[[int, bytes], Any], findings: Optional[Findings]) -> Any:
    if code == EXT_SHARED:
        reference = _shared.Reference.from_map(_unpack(data, nested))
        view = _shared.open_segment(reference)
        if findings is not None:
            findings.segments.append(reference.ino)
        return view
    if code == EXT_ARRAY:
        return _restore_array(*_unpack(data, nested))
    if code == EXT_ARROW:
        return _restore_arrow(_unpack(data, nested))
    if code == EXT_TIME:
        return _restore_time(data)
    return _msgpack.Ext(code, data)


def _restore_array(dtype: str, shape: list[int], data: Any) -> Any:
    if isinstance(data, Broken):
        raise data.error
    try:
        import numpy
    except ImportError:
        raise Undecodable("an array arrived, and numpy is not installed here: pip install numpy") from None
    return numpy.frombuffer(data, dtype=numpy.dtype(dtype)).reshape(shape)


def _restore_arrow(data: Any) -> Any:
    if isinstance(data, Broken):
        raise data.error
    try:
        import pyarrow
    except ImportError:
        raise Undecodable("an Arrow table arrived, and pyarrow is not installed here: pip install pyarrow") from None
    return pyarrow.ipc.open_stream(pyarrow.py_buffer(data)).read_all()


def _restore_time(data: bytes) -> datetime.datetime:
    if len(data) == 4:
        seconds, nanoseconds = int.from_bytes(data, "big"), 0
    elif len(data) == 8:
        both = int.from_bytes(data, "big")
        seconds, nanoseconds = both & ((1 << 34) - 1), both >> 34
    else:
        seconds, nanoseconds = int.from_bytes(data[4:], "big", signed=True), int.from_bytes(data[:4], "big")
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
    return epoch + datetime.timedelta(seconds=seconds, microseconds=nanoseconds // 1000)
