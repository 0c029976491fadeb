"""NumPy arrays and buffers: kept exactly, shared without copying, read-only."""

import gc

import numpy as np
import pytest

from skate.testing.contract import differs_on_ray

ARRAYS = {
    "empty": np.empty((0, 3)),
    "zero-d": np.array(5.0),
    "bool": np.array([True, False]),
    "int8": np.arange(5, dtype=np.int8),
    "big-endian": np.arange(5, dtype=">i4"),
    "float16": np.arange(5, dtype=np.float16),
    "complex128": np.arange(5) * 1j,
    "datetime64": np.array(["2024-01-01", "NaT"], dtype="datetime64[D]"),
    "text": np.array(["a", "longer"]),
    "bytes": np.array([b"a", b"bc"]),
    "structured": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "strided": np.arange(20)[::3],
    "reversed": np.arange(10)[::-1],
    "transposed": np.arange(6).reshape(2, 3).T,
    "broadcast": np.broadcast_to(np.arange(3), (4, 3)),
    "large": np.arange(1 << 18),
    "large fortran": np.asfortranarray(np.arange(1 << 16).reshape(256, 256)),
    "large strided": np.arange(1 << 18)[::2],
    "objects": np.array([{"k": 1}, None, [2]], dtype=object),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_keeps_its_type_shape_and_content(ray, name):
    mine = ARRAYS[name]
    out = ray.get(ray.put(mine))
    assert type(out) is type(mine)
    assert out.dtype == mine.dtype and out.shape == mine.shape
    np.testing.assert_array_equal(out, mine)


@pytest.mark.parametrize("name", ["zero-d", "structured", "fortran", "large"])
def test_array_survives_a_task(ray, name):
    @ray.remote
    def same(x):
        return x

    np.testing.assert_array_equal(ray.get(same.remote(ARRAYS[name])), ARRAYS[name])


def test_order_of_a_fortran_array_is_kept(ray):
    out = ray.get(ray.put(ARRAYS["large fortran"]))
    assert out.flags.f_contiguous and not out.flags.c_contiguous


@pytest.mark.parametrize("scalar", [np.float32(1.5), np.int64(3), np.bool_(True), np.str_("s")])
def test_scalars_keep_their_type(ray, scalar):
    out = ray.get(ray.put(scalar))
    assert out == scalar and type(out) is type(scalar)


def test_writing_says_the_array_is_read_only(ray):
    out = ray.get(ray.put(np.zeros(1 << 18)))
    with pytest.raises(ValueError, match="read-only"):
        out[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        out += 1


def test_read_only_array_inside_containers(ray):
    out = ray.get(ray.put({"a": [np.zeros(4)], "b": (np.zeros(1 << 18),)}))
    assert not out["a"][0].flags.writeable
    assert not out["b"][0].flags.writeable


def test_result_of_a_task_is_read_only(ray):
    @ray.remote
    def f():
        return np.zeros(8), np.zeros(1 << 18)

    small, large = ray.get(f.remote())
    assert not small.flags.writeable and not large.flags.writeable


def test_copy_is_writable_and_leaves_the_object_alone(ray):
    ref = ray.put(np.zeros(1 << 18))
    mine = ray.get(ref).copy()
    mine[0] = 9
    assert ray.get(ref)[0] == 0 and mine[0] == 9


def test_array_put_by_its_owner_stays_writable_for_the_owner(ray):
    mine = np.zeros(1 << 18)
    ray.put(mine)
    mine[0] = 1
    assert mine.flags.writeable


def test_view_outlives_its_ref(ray):
    ref = ray.put(np.arange(1 << 18))
    view = ray.get(ref)
    del ref
    gc.collect()
    refs = [ray.put(np.zeros(1 << 18)) for _ in range(5)]
    assert int(view.sum()) == sum(range(1 << 18))
    del refs


def test_slice_of_a_view_outlives_view_and_ref(ray):
    part = ray.get(ray.put(np.arange(1 << 18)))[100:103]
    gc.collect()
    refs = [ray.put(np.zeros(1 << 18)) for _ in range(5)]
    assert part.tolist() == [100, 101, 102]
    del refs


def test_memory_of_dropped_objects_is_used_again(ray):
    # The store holds 200 MB; this puts 600 MB in all.
    for i in range(30):
        ref = ray.put(np.full(20 * 1024 * 1024 // 8, i, dtype=np.int64))
        assert ray.get(ref)[-1] == i
        del ref


def test_several_arrays_in_one_value_keep_apart(ray):
    out = ray.get(ray.put({i: np.full(1 << 14, i) for i in range(6)}))
    assert all((a == i).all() for i, a in out.items())


def test_array_subclass_is_kept(ray):
    m = np.ma.masked_array([1, 2, 3], mask=[0, 1, 0])
    out = ray.get(ray.put(m))
    assert isinstance(out, np.ma.MaskedArray) and out.sum() == 4


@pytest.mark.parametrize("size", [3, 1 << 20])
def test_bytearray_keeps_its_content(ray, size):
    data = bytearray(i % 251 for i in range(size))
    assert ray.get(ray.put(data)) == data


@differs_on_ray("it comes back as bytes")
@pytest.mark.parametrize("size", [3, 1 << 20])
def test_bytearray_keeps_its_type(ray, size):
    assert type(ray.get(ray.put(bytearray(size)))) is bytearray


@pytest.mark.parametrize("size", [3, 1 << 20])
def test_memoryview_comes_back_with_its_content(ray, size):
    assert bytes(ray.get(ray.put(memoryview(b"x" * size)))) == b"x" * size


def test_slice_of_a_large_array_does_not_carry_the_rest(ray):
    big = np.arange(1 << 20)
    out = ray.get(ray.put(big[:4]))
    assert out.tolist() == [0, 1, 2, 3]
