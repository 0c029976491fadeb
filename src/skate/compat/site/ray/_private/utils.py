"""Ids as bytes and as text."""

from __future__ import annotations

__all__ = ["binary_to_hex", "hex_to_binary"]


def binary_to_hex(identifier: bytes) -> str:
    """The id in hexadecimal."""
    return identifier.hex()


def hex_to_binary(hex_identifier: str) -> bytes:
    """The id as bytes."""
    return bytes.fromhex(hex_identifier)
