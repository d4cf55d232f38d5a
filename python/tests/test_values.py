"""Encoding: our MessagePack against the reference, arrays, shared memory."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import random
import uuid
from typing import Any, Callable

import msgpack
import numpy
import pytest

from ostler_worker import _msgpack, _shared, _values
from ostler_worker.testing import Worker

EDGES = [0, 1, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, 2**64 - 1, -1, -32, -33, -128, -129, -32768, -32769, -(2**31), -(2**63)]


def random_value(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 4 else 7)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.choice(EDGES)
    if kind == 2:
        return chance.uniform(-1e300, 1e300)
    if kind in (3, 4):
        return "ü" * chance.choice([0, 5, 15, 16, 127, 128, 40000])
    if kind == 5:
        return bytes(chance.choice([0, 1, 255, 256, 70000]))
    if kind == 6:
        return chance.random()
    size = chance.choice([0, 1, 15, 16, 20])
    if kind == 7:
        return [random_value(chance, depth + 1) for _ in range(size)]
    return {f"k{index}": random_value(chance, depth + 1) for index in range(size)}


@pytest.mark.parametrize("seed", range(30))
def test_our_messagepack_is_that_of_the_reference(seed: int) -> None:
    value = random_value(random.Random(seed))
    packed = _msgpack.pack(value)
    assert packed == msgpack.packb(value, use_bin_type=True)
    assert _msgpack.unpack(packed) == value
    assert _msgpack.unpack(memoryview(packed)) == msgpack.unpackb(packed, raw=False)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 8, 16, 17, 255, 256, 65536])
def test_extensions(size: int) -> None:
    packed = _msgpack.pack(_msgpack.Ext(5, bytes(size)))
    assert packed == msgpack.packb(msgpack.ExtType(5, bytes(size)))
    assert _msgpack.unpack(packed) == _msgpack.Ext(5, bytes(size))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xa5abc", b"\xdd\xff\xff\xff\xff", b"\x81\x90\x01", b"\x91" * 2000, b"\xa1\xff"])
def test_what_is_no_messagepack_is_refused(data: bytes) -> None:
    with pytest.raises(_msgpack.DecodeError):
        _msgpack.unpack(data)
    with pytest.raises(_values.Undecodable):
        _values.decode(data)


def test_what_cannot_be_packed_is_refused() -> None:
    for value in (object(), 2**64, -(2**63) - 1):
        with pytest.raises((TypeError, OverflowError)):
            _msgpack.pack(value)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int
    inner: Any = None


def test_values_beyond_plain_data() -> None:
    moment = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.timezone.utc)
    assert _values.decode(_values.encode(moment)) == moment
    value = [Point(1, Point(2)), Colour.RED, (1, 2), frozenset([3]), numpy.float32(0.5), numpy.int64(7), uuid.UUID(int=1), datetime.date(2026, 1, 2)]
    assert _values.decode(_values.encode(value)) == [
        {"x": 1, "inner": {"x": 2, "inner": None}}, "red", [1, 2], [3], 0.5, 7, str(uuid.UUID(int=1)), "2026-01-02",
    ]
    with pytest.raises(TypeError, match="cannot be sent"):
        _values.encode(object())
    with pytest.raises(TypeError, match="numeric dtype"):
        _values.encode(numpy.array([object()]))


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i1", "?", "<c16", "<M8[s]", "<U3"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)])
def test_arrays_keep_dtype_and_shape(dtype: str, shape: tuple[int, ...]) -> None:
    array: Any = numpy.arange(int(numpy.prod(shape)) or 1)[: int(numpy.prod(shape))].astype(dtype).reshape(shape)
    back = _values.decode(_values.encode(array))
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert (back == array).all()
    fortran = numpy.asfortranarray(array)
    assert (_values.decode(_values.encode(fortran)) == array).all()


def segments_of(worker: Worker) -> int:
    count: int = worker.ping()["lent"]
    return count


def test_arrays_and_bytes_travel_in_shared_memory_both_ways(worker: Worker) -> None:
    array: Any = numpy.arange(1 << 20, dtype="f8").reshape(1024, 1024)
    back = worker.call("echo", array)
    assert (back == array).all() and not back.flags.owndata and not back.flags.writeable
    data = bytes(range(256)) * 8192
    back = worker.call("echo", {"data": data, "small": b"x"})
    assert isinstance(back["data"], memoryview) and bytes(back["data"]) == data and back["small"] == b"x"
    assert segments_of(worker) == 0, "the receiver has let the worker's segments go"
    assert worker._segments.count() == 0, "and ours ended with their requests"


def test_small_arrays_travel_inside_the_frame(worker: Worker) -> None:
    back = worker.call("echo", numpy.arange(10))
    assert (back == numpy.arange(10)).all() and worker._segments.count() == 0


def test_results_stay_inside_the_frame_for_a_host_without_shared_memory(start: Callable[..., Worker]) -> None:
    worker = start(shm_min=None)
    back = worker.call("array", 2)
    assert back.nbytes == 2 << 20 and segments_of(worker) == 0


def test_a_segment_is_what_was_sent() -> None:
    segments = _shared.Segments()
    reference = segments.create("request", memoryview(b"abc"))
    assert reference is not None
    assert bytes(_shared.open_segment(reference)) == b"abc"
    with pytest.raises(_shared.SegmentLost, match="no longer the segment"):
        _shared.open_segment(reference._replace(ino=reference.ino + 1))
    view = _shared.open_segment(reference)
    segments.release("request", [reference.ino])
    segments.release("request", [reference.ino])
    assert segments.count() == 0 and bytes(view) == b"abc", "a mapping outlives the release"
    with pytest.raises(_shared.SegmentLost):
        _shared.open_segment(reference)


def test_an_unsealed_memfd_is_refused() -> None:
    import os

    fd = os.memfd_create("unsealed")
    try:
        os.write(fd, b"abc")
        status = os.fstat(fd)
        with pytest.raises(_shared.SegmentLost, match="not a sealed memfd"):
            _shared.open_segment(_shared.Reference(f"/proc/{os.getpid()}/fd/{fd}", status.st_dev, status.st_ino, 3))
    finally:
        os.close(fd)


def test_arrow_tables(worker: Worker) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"n": list(range(200_000)), "f": [float(n) for n in range(200_000)]})
    assert worker.call("echo", table).equals(table)


def test_a_frame_lists_the_segments_that_it_refers_to() -> None:
    segments = _shared.Segments()
    large, small = b"x" * (1 << 20), b"y"
    lend = lambda view: segments.create("request", view)  # noqa: E731
    frame = _values.decode(_values.encode_frame({"type": "response", "id": 1, "ok": [large, small, large]}, lend, 1 << 20))
    assert bytes(frame["ok"][0]) == large and frame["ok"][1] == small
    assert [reference["size"] for reference in frame["segments"]] == [1 << 20, 1 << 20]
    assert segments.count() == 2
    frame = _values.decode(_values.encode_frame({"type": "response", "id": 1, "ok": small}, lend, 1 << 20))
    assert "segments" not in frame
    segments.release("request")
