"""Values to bytes and back: the same value, buffers in place and aligned, references listed, culprits named."""

from __future__ import annotations

import collections
import math
import pickle
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skate.core import engine as engines
from skate.core import refs
from skate.core.refs import make_ref
from skate.core.serialization import ALIGN, dump_definition, pack, unpack


class Borrower:
    """An engine that only notes which references arrive."""

    def __init__(self) -> None:
        self.borrowed: list[int] = []

    def borrow(self, key: int) -> None:
        self.borrowed.append(key)


@pytest.fixture
def borrower(monkeypatch: pytest.MonkeyPatch) -> Iterator[Borrower]:
    made = Borrower()
    monkeypatch.setattr(engines, "_current", made)
    monkeypatch.setattr(refs, "released", collections.deque())
    yield made
    monkeypatch.undo()


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers()
HASHABLE = st.none() | st.booleans() | st.integers() | st.text() | st.binary()
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
    ),
    max_leaves=20,
)
DTYPES = st.sampled_from(["u1", "i8", "f4", "f8", "c16", "bool", "<U3", "M8[s]"])
SHAPES = st.lists(st.integers(0, 5), min_size=0, max_size=3).map(tuple)


def same(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return one == two or (math.isnan(one) and math.isnan(two))
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, list | tuple):
        return len(one) == len(two) and all(map(same, one, two))
    if isinstance(one, dict):
        return list(one) == list(two) and all(same(one[key], two[key]) for key in one)
    return bool(one == two)


def laid_down(value: Any) -> memoryview:
    """The packed form at an address that is a multiple of the alignment, as in the arena."""
    packed = pack(value)
    room = np.zeros(packed.size + ALIGN, np.uint8)
    start = -room.ctypes.data % ALIGN
    view = memoryview(room)[start : start + packed.size]
    packed.write_into(view)
    return view


# ------------------------------------------------------------------- round trips


@given(VALUES)
@settings(max_examples=150)
def test_a_value_comes_back_the_same(value):
    packed = pack(value)
    data = packed.to_bytes()
    assert len(data) == packed.size
    assert same(unpack(data), value)
    assert same(unpack(memoryview(data)), value)
    assert packed.refs == ()


@given(arrays=st.lists(st.tuples(DTYPES, SHAPES), max_size=5), beside=VALUES)
@settings(max_examples=100)
def test_arrays_come_back_the_same_among_other_values(arrays, beside):
    made = [np.arange(math.prod(shape)).astype(dtype).reshape(shape) for dtype, shape in arrays]
    found, other = unpack(pack((made, beside)).to_bytes())
    assert same(other, beside)
    for one, two in zip(made, found, strict=True):
        assert one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()


@pytest.mark.parametrize("array", [
    np.arange(24).reshape(2, 3, 4),
    np.asfortranarray(np.arange(24).reshape(4, 6)),
    np.arange(24).reshape(4, 6)[::2, ::-1],
    np.arange(24).reshape(4, 6).T,
    np.zeros((0, 3)),
    np.array(5),
    np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    np.array([{"an": "object"}, None], dtype=object),
], ids=["c", "fortran", "strided", "transposed", "empty", "scalar", "record", "objects"])  # fmt: skip
def test_an_array_of_any_layout_comes_back_the_same(array):
    found = unpack(pack(array).to_bytes())
    assert found.dtype == array.dtype and found.shape == array.shape
    assert found.tolist() == array.tolist()


def test_several_names_of_one_array_stay_one_array():
    array = np.arange(1000)
    packed = pack([array, array])
    one, two = unpack(packed.to_bytes())
    assert one is two
    assert packed.size < 2 * array.nbytes


def test_bytearray_and_bytes_of_any_size_come_back_with_their_type():
    for value in (b"x" * 300_000, bytearray(b"y" * 300_000), b"", bytearray()):
        found = unpack(pack(value).to_bytes())
        assert type(found) is type(value) and found == value


# ----------------------------------------------------------------------- buffers


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=8))
@settings(max_examples=60)
def test_buffers_lie_at_multiples_of_64_bytes_and_are_not_copied(sizes):
    view = laid_down([np.full(size, number % 256, np.uint8) for number, size in enumerate(sizes)])
    whole = np.frombuffer(view, np.uint8)
    for number, array in enumerate(unpack(view)):
        assert (array == number % 256).all() and len(array) == sizes[number]
        if array.size:
            assert array.ctypes.data % ALIGN == 0
            assert np.shares_memory(array, whole)


def test_arrays_of_a_stored_value_cannot_be_written():
    for data in (laid_down(np.arange(1000)), pack(np.arange(1000)).to_bytes()):
        array = unpack(data)
        assert not array.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


def test_an_array_is_not_copied_into_the_pickle():
    array = np.zeros(1 << 20)
    packed = pack({"a": array})
    assert len(packed.pickled) < 1000
    (buffer,) = packed.buffers
    assert np.shares_memory(np.frombuffer(buffer, np.uint8), array)


def test_the_packed_form_fits_its_size_exactly():
    packed = pack([np.zeros(100), np.zeros(7, np.uint8), b"z" * 10])
    guarded = bytearray(packed.size) + b"\xaa" * 8
    packed.write_into(memoryview(guarded)[: packed.size])
    assert guarded[packed.size :] == b"\xaa" * 8
    assert bytes(guarded[: packed.size]) == packed.to_bytes()


def test_a_value_can_be_read_with_another_loader():
    seen = []

    def loads(data: Any, **options: Any) -> Any:
        seen.append(sorted(options))
        return pickle.loads(data, **options)

    assert unpack(pack([1]).to_bytes(), loads) == [1]
    assert unpack(pack(np.arange(3)).to_bytes(), loads).tolist() == [0, 1, 2]
    assert seen == [[], ["buffers"]]


# -------------------------------------------------------------------- references


@given(st.lists(st.integers(1, 2**63), max_size=5))
def test_references_inside_a_value_are_listed_in_order(keys):
    value = {"list": [make_ref(key) for key in keys], "n": np.arange(3)}
    assert pack(value).refs == tuple(keys)
    refs.released.clear()


def test_references_are_listed_also_when_cloudpickle_has_to_do_it(borrower):
    one, two = make_ref(1), make_ref(2)
    packed = pack([one, lambda: two])
    assert sorted(packed.refs) == [1, 2]
    first, function = unpack(packed.to_bytes())
    assert (first, function()) == (one, two)
    assert sorted(borrower.borrowed) == [1, 2]


def test_references_that_arrive_count_themselves(borrower):
    found = unpack(pack([make_ref(7), make_ref(7, 0), make_ref(8)]).to_bytes())
    assert borrower.borrowed.count(7) in (1, 2) and 8 in borrower.borrowed
    assert [ref._key for ref in found] == [7, 7, 8]


def test_a_value_packed_while_another_is_packed_has_its_own_list(borrower):
    inner_refs = []

    class Inside:
        def __reduce__(self) -> Any:
            inner_refs.append(pack([make_ref(2)]).refs)
            return (int, ())

    packed = pack([make_ref(1), Inside(), make_ref(3)])
    assert packed.refs == (1, 3)
    assert inner_refs[-1] == (2,)


def test_a_value_that_cannot_be_packed_leaves_no_list_open(borrower):
    with pytest.raises(TypeError):
        pack([make_ref(1), threading.Lock()])
    assert refs.collector.found is None
    pickle.dumps(make_ref(5))
    assert borrower.borrowed == [5], "pickled outside of a value: kept for good"


# ---------------------------------------------------------- functions and classes


@pytest.fixture
def main_class(monkeypatch: pytest.MonkeyPatch) -> type:
    """A class as a user's script has it."""
    made = types.new_class(
        "Mine", (), exec_body=lambda body: body.update(__module__="__main__", twice=lambda s: s.x * 2)
    )
    made.__qualname__ = "Mine"
    monkeypatch.setattr(sys.modules["__main__"], "Mine", made, raising=False)
    return made


def test_classes_of_the_main_module_travel_by_value(main_class, monkeypatch):
    instance = main_class()
    instance.x = 21
    data = pack([instance]).to_bytes()
    monkeypatch.delattr(sys.modules["__main__"], "Mine")
    (found,) = unpack(data)
    assert found.twice() == 42


def test_functions_that_have_no_name_to_import_travel_by_value():
    factor = 3
    assert unpack(pack(lambda x: x * factor).to_bytes())(4) == 12
    assert unpack(dump_definition(lambda x: x + factor))(4) == 7


def test_functions_of_modules_travel_by_name():
    assert unpack(pack(math.sin).to_bytes()) is math.sin
    assert unpack(dump_definition(math.sin)) is math.sin


# ------------------------------------------------------------------------ errors


class Refuses:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        raise self.error


@pytest.mark.parametrize(("value", "path"), [
    ({"x": [1, threading.Lock()]}, r"\['x'\] -> \[1\] \(a _thread\.lock\)"),
    ([types.SimpleNamespace(inner=(0, threading.Lock()))], r"\[0\] -> \.inner -> \[1\]"),
    (((threading.Lock(),), {}), r"argument 0 \(a _thread\.lock\)"),
    (((), {"name": threading.Lock()}), r"argument 'name'"),
], ids=["dict", "attribute", "argument", "named argument"])  # fmt: skip
def test_the_error_names_the_path_to_what_cannot_be_pickled(value, path):
    with pytest.raises(TypeError, match=path):
        pack(value)


def test_the_error_names_the_variable_that_a_function_drags_along():
    lock = threading.Lock()
    with pytest.raises(TypeError, match="closure variable 'lock'"):
        dump_definition(lambda: lock)
    with pytest.raises(TypeError, match="closure variable 'lock'"):
        pack(lambda: lock)


def test_a_type_error_of_a_classs_own_pickling_is_explained():
    with pytest.raises(TypeError, match=r"\[1\] -> \[0\] \(a test_serialization\.Refuses\)") as caught:
        pack([0, [Refuses(TypeError("not me"))]])
    assert "not me" in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("no"), OSError("no")], ids=repr)
def test_other_errors_of_a_classs_own_pickling_come_through_as_in_ray(error):
    with pytest.raises(type(error), match="no"):
        pack([0, [Refuses(error)]])
    assert refs.collector.found is None


def test_a_buffer_that_is_not_contiguous_is_packed_or_named():
    value = pickle.PickleBuffer(memoryview(b"abcdef")[::2])
    try:
        found = unpack(pack([value]).to_bytes())
    except TypeError as error:
        assert "PickleBuffer" in str(error)
    else:
        assert bytes(found[0]) == b"ace"


def test_a_value_that_holds_itself_comes_back_and_one_too_deep_is_an_error():
    loop: list[Any] = []
    loop.append(loop)
    found = unpack(pack(loop).to_bytes())
    assert found[0] is found
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises((TypeError, RecursionError)):
        pack(deep)
    while deep:
        deep = deep[0]
