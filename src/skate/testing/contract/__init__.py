"""The promises of the public API, as cases that every engine has to pass.

Run them on the engine of your choice:

    SKATE_ENGINE=inline python -m pytest --pyargs skate.testing.contract

and on another package with the same API (this is how each case is known to be true of Ray):

    CONTRACT_PACKAGE=ray python -m pytest --pyargs skate.testing.contract

A case takes the fixture `ray`: the package under test, with a session running. What an engine
cannot do yet is marked on the case by `not_yet`, strictly: the mark has to go when the gap does.
"""

from skate.testing.contract.marks import (
    differs_on_ray,
    ends_a_process,
    needs_background,
    needs_processes,
    not_yet,
)

__all__ = ["differs_on_ray", "ends_a_process", "needs_background", "needs_processes", "not_yet"]
