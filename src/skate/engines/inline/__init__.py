"""The inline engine: everything in this process, for debugging and unit tests.

* A task runs at once, in the thread that calls ``.remote()``: ``breakpoint()``, debuggers, profilers and coverage see
  plain function calls. A task whose argument is not ready yet runs in a thread of its own when it is.
* A generator task runs as far as its items are asked for; waiting for its end runs it to the end.
* An actor is an instance in this process. The methods of a plain one run at the call, in order. Only an actor that is
  concurrent by its own choice has threads: one with an event loop for ``async`` methods, ``max_concurrency`` of them
  for a threaded one.
* Values are packed and unpacked as everywhere, so nothing is shared by mistake, and errors are those of the other
  engines. Functions and classes that can be imported are the program's own; others run as copies, taken at first use.
* Resources are counted and GPUs assigned, but nothing waits for them: a task runs even when nothing is free. Only a
  placement group waits for its resources, and calls inside wait for the group.

What one process cannot do: two tasks never overlap, and a running task cannot be interrupted by ``cancel``, ``kill`` or
the timeout of a ``get`` (its result is discarded). ``SystemExit`` in a task counts as the death of its worker, but
``os._exit`` or a segmentation fault ends the program. What a signal handler of the program raises while a task runs, a
Ctrl-C above all, goes through to the program; a ``KeyboardInterrupt`` that a task raises by itself becomes
TaskCancelledError, as on the other engines.
"""

from skate.engines.inline.engine import InlineEngine

__all__ = ["InlineEngine"]
