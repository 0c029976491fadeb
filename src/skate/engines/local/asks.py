"""What workers ask of the hub by a word, and are answered: a table of verbs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from skate.core.nodes import NodeSpec
from skate.engines.local import errors, guard
from skate.engines.local.messages import (
    Answer,
    Ask,
    Stored,
    TaskSpec,
    decode_any,
    decode_await,
    decode_reserve,
    decode_spawn,
    encode_any,
    encoder,
)
from skate.engines.local.questions import Questions
from skate.engines.local.rows import Worker


class Asks(Questions):
    """The hub, with answers."""

    def ask(self, worker: Worker, message: Ask) -> None:
        """A worker asks something else: its answer is on its way when this returns; Nonsense when it makes no sense."""
        try:
            data = _VERBS[message.verb](self, worker, message.data)
            failed = False
        except guard.Nonsense:
            raise
        except Exception as error:  # noqa: BLE001  it is the asker's
            data, failed = errors.packed(error), True
        worker.link.send(Answer(message.request, data, failed))
        self.urgent.append(worker)

    def _ask_spawn(self, worker: Worker, data: bytes) -> bytes:
        request = decode_spawn(data)
        spec = guard.spawn(self, worker, request)
        try:
            return encoder.encode(self.spawn(spec, request.info, self._namespace(worker), worker))
        finally:
            self.forget_lost(spec)

    def forget_lost(self, spec: TaskSpec) -> None:
        """The call was not made: nobody will ask for the errors of its unknown inputs."""
        for key in spec.deps:
            row = self.rows.get(key)
            if row is not None and row.count <= 0 and row.spec is None:
                self._drop(key, row)

    def _ask_find(self, worker: Worker, data: bytes) -> bytes:
        name, namespace = decode_any(data)
        return encoder.encode(self.find(name, namespace or self._namespace(worker)))

    def _namespace(self, worker: Worker) -> str:
        return worker.job.namespace if worker.job is not None else self.settings.namespace

    def _ask_allocate(self, worker: Worker, data: bytes) -> bytes:
        key, size = guard.room(worker, *decode_any(data))
        offset = self.allocate(key, size)
        if offset >= 0:
            worker.granted.append((offset, size))
        else:
            worker.aside[key] = size
        return encode_any(offset)

    def _ask_lose(self, worker: Worker, data: bytes) -> bytes:
        (key,) = decode_any(data)
        row = self.rows.get(key)
        if row is not None and type(row.value) is Stored and row.value.offset < 0:  # or it is back, and not lost
            self.lose(key)
        return encode_any(None)

    def _ask_spill_folder(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.ports.spill_folder())

    def _ask_cancel(self, worker: Worker, data: bytes) -> bytes:
        self.cancel(*decode_any(data))
        return encode_any(None)

    def _ask_kill(self, worker: Worker, data: bytes) -> bytes:
        self.kill(*decode_any(data))
        return encode_any(None)

    def _ask_state(self, worker: Worker, data: bytes) -> bytes:
        (kind,) = decode_any(data)
        return encode_any(self.state(kind))

    def _ask_reserve(self, worker: Worker, data: bytes) -> bytes:
        key, spec = decode_reserve(data)
        guard.group(self, worker, key, spec)
        self.reserve(key, spec, worker)
        return encode_any(None)

    def _ask_unreserve(self, worker: Worker, data: bytes) -> bytes:
        self.unreserve(*decode_any(data))
        return encode_any(None)

    def _ask_await_group(self, worker: Worker, data: bytes) -> bytes:
        promise, group, value = decode_await(data)
        guard.new_keys(self, worker, promise)
        self.await_group(promise, group, value, worker)
        return encode_any(None)

    def _ask_find_group(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.find_group(*decode_any(data)))

    def _ask_group(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.group_row(*decode_any(data)))

    def _ask_job(self, worker: Worker, data: bytes) -> bytes:
        submitted = self.ports.jobs.submitted
        if submitted is None:
            raise RuntimeError("This session lives in a driver and takes no jobs: start a hub with `skate start`.")
        return encode_any(submitted.ask(*decode_any(data)))

    def _ask_add_node(self, worker: Worker, data: bytes) -> bytes:
        self._check_owner(worker)
        (spec,) = decode_any(data)
        return encode_any(self.ports.add_node(msgspec.convert(spec, NodeSpec)).hex)

    def _ask_remove_node(self, worker: Worker, data: bytes) -> bytes:
        self._check_owner(worker)
        (wanted,) = decode_any(data)
        key = next((known.key for known in self.scheduler.nodes.values() if known.hex == wanted), 0)
        if not key:
            raise ValueError(f"There is no node of the id {wanted!r} to remove.")
        self.remove_node(key)
        return encode_any(None)

    def _ask_node_has_workers(self, worker: Worker, data: bytes) -> bytes:
        (wanted,) = decode_any(data)
        return encode_any(any(other.node.hex == wanted for other in self.workers.values()))

    def _check_owner(self, worker: Worker) -> None:
        if not self.settings.apart or worker.job is None or worker.job.peer is not worker:
            raise RuntimeError("Nodes are added and removed by the program whose session it is.")

    def _ask_resources(self, worker: Worker, data: bytes) -> bytes:
        return encode_any(self.resources())


_VERBS: dict[str, Callable[[Asks, Worker, bytes], bytes]] = {
    "spawn": Asks._ask_spawn,
    "find": Asks._ask_find,
    "allocate": Asks._ask_allocate,
    "lose": Asks._ask_lose,
    "spill_folder": Asks._ask_spill_folder,
    "cancel": Asks._ask_cancel,
    "kill": Asks._ask_kill,
    "state": Asks._ask_state,
    "resources": Asks._ask_resources,
    "reserve": Asks._ask_reserve,
    "unreserve": Asks._ask_unreserve,
    "await_group": Asks._ask_await_group,
    "find_group": Asks._ask_find_group,
    "group": Asks._ask_group,
    "job": Asks._ask_job,
    "add_node": Asks._ask_add_node,
    "remove_node": Asks._ask_remove_node,
    "node_has_workers": Asks._ask_node_has_workers,
}
