"""Pickles of plain values and arrays are read; all others are rejected without much time or memory."""

from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np
import pytest

from vggdist.data.pickles import NamesError, read_pickle

_DOUBLED = b"\x86q\x01h\x01"  # makes a pair of the top two values, and pushes it twice


@pytest.mark.parametrize(
    "batch",
    [
        {},
        {"labels": [1, 2, 300, 70_000, -1, 2**40], "name": "training batch", "none": None, "yes": True, "no": False},
        {"data": np.arange(12, dtype=np.uint8).reshape(3, 4), "one": [7]},
        {"columns": np.asfortranarray(np.arange(12).reshape(3, 4)), "big": np.arange(3, dtype=">i4")},
        {"nested": [[1, 2], [3, 4]], "pair": (1, 2, 3, 4), "empty": ()},
    ],
)
def test_what_python_writes_with_protocol_2_is_read(batch: dict[str, Any]) -> None:
    found = read_pickle(pickle.dumps(batch, protocol=2))
    assert list(found) == list(batch)
    for name, value in batch.items():
        np.testing.assert_array_equal(found[name], value)


def test_bytes_become_text() -> None:
    assert read_pickle(pickle.dumps({b"name\xe9": [b"cat"]}, protocol=2)) == {"name\xe9": ["cat"]}


def _calls(function: bytes, arguments: bytes) -> bytes:
    """A pickle of ``{"data": function(*arguments)}``."""
    return b"\x80\x02}U\x04data" + b"c" + function + b"\n" + arguments + b"Rs."


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "content",
    [
        _calls(b"numpy\nndarray", b"\x8a\x05\x00\x00\x00\x80\x00\x85U\x01O\x86"),  # 16 GB of objects
        _calls(b"numpy\nndarray", b"]\x85"),
        _calls(b"numpy\ndtype", b"U\x01O\x85"),
        _calls(b"numpy\ndtype", b"U\x0c(1000000,)u1\x85"),
        _calls(b"_codecs\nencode", b"U\x01aU\x06utf-16\x86"),
        _calls(b"_codecs\nencode", b"K\x07\x85"),
        b"\x80\x02}K\x01K\x01" + _DOUBLED * 60 + b"\x86K\x01s.",  # a key whose hash takes 2^60 steps
        b"\x80\x02}r\xff\xff\xff\xff" + b"U\x01as.",  # a memo of 2^32 entries, and a missing operand
        b"\x80\x02}U\x01aB\xff\xff\xff\xffs.",  # missing bytes
        b"\x80\x02}U\x01a\x8e" + struct.pack("<Q", 2**60) + b"s.",
        b"\x80\x02}U\x01ah\x07s.",  # an empty memo entry
        b"\x80\x02}U\x01a(i__main__\nX\ns.",
        b"\x80\x02}U\x01aPnumber\ns.",
        b"\x80\x02]K\x01b.",
        b"\x80\x02}K\x01K\x02K\x03K\x04.",
        b"\x80\x02((.",
        b"\x80\x02e.",
        b"\x80\x04N.",
        b"I" + b"9" * 5000 + b"\n.",
        b"",
    ],
)
def test_anything_else_is_refused_and_costs_nothing(content: bytes) -> None:
    with pytest.raises(ValueError):
        read_pickle(content)


def test_a_name_that_no_file_has_is_an_error_of_its_own() -> None:
    with pytest.raises(NamesError, match="posix.system"):
        read_pickle(b"cposix\nsystem\n(U\x02lstR.")


def _array(shape: bytes, content: bytes, kind: bytes = b"U\x02u1", order: bytes = b"U\x01|") -> bytes:
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n" + kind + b"K\x00K\x01\x87R(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + content
        + b"tbs."
    )  # fmt: skip


def test_an_array_is_as_large_as_its_content() -> None:
    content = b"U\x06abcdef"
    assert read_pickle(_array(b"K\x02K\x03\x86", content))["a"].tolist() == [[97, 98, 99], [100, 101, 102]]
    for shape in (
        b"K\x02K\x04\x86",
        b"J\xff\xff\xff\xff\x85",
        b"\x8a\x05\x00\x00\x00\x80\x00\x85",
        b"K\x06",
        b"U\x016\x85",
        b"N",
    ):
        with pytest.raises(ValueError):
            read_pickle(_array(shape, content))
    for changed in ({"kind": b"U\x01O"}, {"kind": b"K\x01"}, {"order": b"U\x03x,i"}, {"order": b"N"}):
        with pytest.raises(ValueError):
            read_pickle(_array(b"K\x06\x85", content, **changed))


@pytest.mark.timeout(30)
def test_a_string_is_not_copied_again_and_again() -> None:
    """20,000 arrays that refer to the same megabyte."""
    state = b"(K\x01h\x01h\x02\x89h\x03tb"
    begin = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    head = b"\x80\x02}q\x00(U\x01sT" + struct.pack("<i", 2**20) + bytes(2**20) + b"q\x03U\x01pJ\x00\x00\x10\x00\x85q\x01"
    head += b"U\x01tcnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbq\x02"
    assert read_pickle(head + b"U\x01a" + begin + state + b"u.")["a"].nbytes == 2**20
    with pytest.raises(ValueError, match="not in numpy's format"):
        read_pickle(head + b"U\x01a](" + (begin + state) * 20_000 + b"eu.")
