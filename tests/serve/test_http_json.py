"""Values as JSON: as FastAPI writes them, and at once where they are plain."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import pathlib
import uuid
from typing import Any

import msgspec
import numpy as np
import pydantic
import pytest
from fastapi.encoders import jsonable_encoder
from hypothesis import given
from hypothesis import strategies as st

from skate.serve.http_json import as_json, is_plain


class Colour(enum.Enum):
    RED = "red"


class Text(str):
    pass


class Point(msgspec.Struct):
    x: int = 1


class Model(pydantic.BaseModel):
    when: datetime.datetime = datetime.datetime(2020, 1, 2)


@dataclasses.dataclass
class Data:
    inner: Any = 1


class Plain:
    def __init__(self) -> None:
        self.a = 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"a": b"bytes"}, '{"a":"bytes"}'),
        (datetime.timedelta(seconds=90), "90.0"),
        ([decimal.Decimal("1.50"), decimal.Decimal(3)], "[1.5,3]"),
        ({None: 1, True: 2, 1.5: 3, Colour.RED: Colour.RED}, '{"null":1,"true":2,"1.5":3,"red":"red"}'),
        (2**70, str(2**70)),
        ([2**70, math.inf], f"[{2**70},null]"),
        ((1, {2}), "[1,[2]]"),
        (np.arange(3), "[0,1,2]"),
        ({"a": [np.float32(1.5), np.bool_(True)]}, '{"a":[1.5,true]}'),
        (np.array([1.0, math.nan]), "[1.0,null]"),
        (math.nan, "null"),
        ([Text("sub")], '["sub"]'),
        (Data(Data(Text("x"))), '{"inner":{"inner":"x"}}'),
        (Model(), '{"when":"2020-01-02T00:00:00"}'),
        (Point(), '{"x":1}'),
        (Plain(), '{"a":1}'),
        ((each for each in (1, 2)), "[1,2]"),
        ([uuid.UUID(int=5), pathlib.Path("/a")], '["00000000-0000-0000-0000-000000000005","/a"]'),
        (datetime.date(2020, 1, 2), '"2020-01-02"'),
        ({"ü": "é"}, '{"ü":"é"}'),
    ],
)
def test_values_that_are_not_plain(value: Any, written: str) -> None:
    assert as_json(value).decode() == written


@pytest.mark.parametrize("value", [ValueError("x"), int, {("a", 1): 2}, [1 + 2j]])
def test_what_cannot_be_json_is_an_error(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        as_json(value)


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text()
odd = st.decimals(allow_nan=False, allow_infinity=False, places=2) | st.timedeltas() | st.dates() | st.binary()
nested = st.recursive(
    leaves | odd.filter(lambda value: not isinstance(value, bytes) or value.isascii()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4) | st.tuples(inner, inner),
    max_leaves=12,
)


@given(nested)
def test_it_is_what_fastapi_would_write(value: Any) -> None:
    wanted = json.loads(json.dumps(jsonable_encoder(value)), parse_constant=lambda _: None)
    assert json.loads(as_json(value)) == wanted


@given(st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_plain_values_are_known_as_such(value: Any) -> None:
    assert is_plain(value)
