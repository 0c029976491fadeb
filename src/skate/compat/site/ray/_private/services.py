"""Addresses of this machine."""

from __future__ import annotations

import skate

__all__ = ["get_node_ip_address"]


def get_node_ip_address(address: str = "") -> str:
    """The address of the calling code's node; `address`, through which Ray would look for it, has no effect."""
    return str(skate.util.get_node_ip_address())
