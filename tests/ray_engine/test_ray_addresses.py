"""Addresses of clusters."""

from __future__ import annotations

import time

import pytest

import skate

pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs it")


def test_nobody_at_the_address_is_told_at_once():
    began = time.monotonic()
    with pytest.raises(ConnectionError, match="There is no Ray cluster at"):
        skate.init(engine="ray", address="127.0.0.1:1")
    assert time.monotonic() - began < 10
    assert not skate.is_initialized()
