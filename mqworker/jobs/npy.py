"""Converts numpy arrays to bytes and back, exactly: .npy version 1.0 without pickle; in MessagePack, extension type 78.

Runs in Consumers, publishers and tests; pure. numpy is imported when the first array arrives. Nothing is unpickled, and
nothing is allocated until the header and the number of bytes agree. Raises `ArrayError` with one sentence.
"""

import ast
import io
import math
import sys
from typing import Any, Final

import msgspec

from mqworker.jobs.plain import plain

EXTENSION: Final = 78
NPY_TYPE: Final = "application/x-npy"
_MAGIC = b"\x93NUMPY\x01\x00"


class ArrayError(ValueError):
    """An array cannot be represented exactly as .npy, or bytes are not an array."""


def is_array(value: Any) -> bool:
    """Return whether this is an array that is sent as .npy: one without a mask, and not of Python objects."""
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and isinstance(value, numpy.ndarray)
        and not value.dtype.hasobject
        and not isinstance(value, numpy.ma.MaskedArray)
    )


def to_npy(array: Any) -> bytes:
    """Return an array as .npy, in its order in memory if that is C's or Fortran's, else in C's order."""
    if not is_array(array):
        raise ArrayError(f"{_kind(array)} is not an array that .npy can hold: no masks, no Python objects")
    numpy = _numpy()
    form, plain_array = numpy.lib.format, numpy.asarray(array)
    header = io.BytesIO()
    try:
        _refuse_inexact(array.dtype)
        about = form.header_data_from_array_1_0(plain_array)
        form.write_array_header_1_0(header, about)
        exact = form.descr_to_dtype(about["descr"]) == array.dtype
    except ValueError as error:  # also raised by numpy: a header over 64 KiB, field names that are not Latin-1
        raise ArrayError(f".npy cannot hold this array exactly: {error}; its dtype is {array.dtype!r:.100}") from None
    if not exact:
        raise ArrayError(f".npy cannot hold this array exactly: its dtype is {array.dtype!r:.100}")
    elements = plain_array.view(f"V{array.itemsize}")  # numpy copies these whole, with the padding between fields
    return b"".join((header.getvalue(), elements.ravel("F" if about["fortran_order"] else "C").view(numpy.uint8)))


def from_npy(data: bytes | bytearray | memoryview) -> Any:
    """Return the array of an .npy as a writable, aligned copy."""
    numpy, view = _numpy(), memoryview(data).cast("B")
    start = len(_MAGIC) + 2 + int.from_bytes(view[8:10], "little")
    if view[: len(_MAGIC)] != _MAGIC:
        raise ArrayError("an array is not an .npy of version 1.0: it begins otherwise")
    try:
        shape, fortran, dtype = _header(str(view[len(_MAGIC) + 2 : start], "latin-1"))
    except Exception as error:  # noqa: BLE001 - Python's parser and numpy's dtypes fail in many ways
        text = str(error).partition("\n")[0]
        raise ArrayError(
            f"an array has a header that is not one of .npy: {type(error).__name__}: {text:.200}"
        ) from None
    if dtype.hasobject:
        raise ArrayError("an array holds Python objects: it would have to be unpickled, which is never done")
    size, there = math.prod(shape) * dtype.itemsize, len(view) - start
    if size != there or not dtype.itemsize:  # elements without bytes could be any number
        raise ArrayError(
            f"an array has {there:,} bytes, which its header contradicts: {dtype!r:.100} and {shape!r:.100}"
        )
    try:
        return numpy.ndarray(shape, dtype, bytearray(view[start:]), order="F" if fortran else "C")
    except (ValueError, OverflowError) as error:  # more dimensions than numpy allows, or larger ones
        raise ArrayError(f"an array cannot be made of shape {shape!r:.100}: {error}") from None


def _header(text: str) -> tuple[tuple[int, ...], bool, Any]:
    """Return shape, order and dtype; numpy would also read headers of Python 2, slowly, and many types in one text."""
    header = ast.literal_eval(text)
    descr, fortran, shape = (header[name] for name in ("descr", "fortran_order", "shape"))
    if len(header) > 3 or not _is_descr(descr) or not isinstance(fortran, bool) or not _is_shape(shape):
        raise ValueError(f"numpy does not write {text[:100]!r}")
    return shape, fortran, _numpy().lib.format.descr_to_dtype(descr)


def _is_descr(descr: Any) -> bool:
    """Return whether numpy describes dtypes in this form: one type as text, a type with a shape, a list of fields."""
    if isinstance(descr, str):
        return "," not in descr
    if isinstance(descr, tuple):
        return _is_descr(descr[0]) and all(map(_is_shape, descr[1:]))
    return isinstance(descr, list) and all(
        isinstance(field, tuple) and _is_descr(field[1]) and all(map(_is_shape, field[2:])) for field in descr
    )


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(isinstance(length, int) and 0 <= length <= sys.maxsize for length in shape)


def extension(code: int, data: memoryview) -> Any:
    """Return what an extension type of MessagePack stands for: an array, or a msgspec `Ext` of any other type."""
    return from_npy(data) if code == EXTENSION else msgspec.msgpack.Ext(code, bytes(data))


def packable(value: Any) -> Any:
    """Return a form that MessagePack can encode, for a value that its encoder does not know."""
    return msgspec.msgpack.Ext(EXTENSION, to_npy(value)) if is_array(value) else plain(value)


def _refuse_inexact(dtype: Any) -> None:
    """Raise ValueError for what an .npy header would silently leave out."""
    if dtype.metadata:
        raise ValueError("the metadata of its dtype would be lost")
    if not dtype.itemsize:
        raise ValueError("its elements have no bytes")
    if dtype.subdtype:
        _refuse_inexact(dtype.subdtype[0])
    for name in dtype.names or ():
        _refuse_inexact(dtype.fields[name][0])


def _kind(value: Any) -> str:
    dtype = getattr(value, "dtype", "")
    return f"{type(value).__qualname__} of {dtype}" if dtype else type(value).__qualname__


def _numpy() -> Any:
    try:
        import numpy as np  # noqa: PLC0415 - optional, and only needed for arrays
    except ImportError as error:
        raise ArrayError(f"arrays need numpy, which cannot be imported ({error}): pip install numpy") from None
    return np
