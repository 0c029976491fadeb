"""Churn: drivers come to a standing hub and are killed at random, and nothing of one may reach another, or stay.

::

    python -m skate.testing.churn --minutes 10 --seed 1

Two drivers at a time work on one hub (`skate.testing.churn_driver`), each with namespaces, names and objects that look
like the other's; a command line submits, lists and stops jobs meanwhile; and this program is a driver too, whose actor
must count on as if nothing happened. At the end the hub has to be as it was at the beginning: processes, descriptors,
folders, its tables, its shared memory. A run ends with status 0 and a summary, or with 1 and what was wrong.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import click
import psutil

import skate
from skate import standing
from skate.engines.local.standing import _marked
from skate.engines.local.visit import Visit
from skate.testing.churn_driver import Tally, large

STORE = 80_000_000
SLOTS = 2
"""Drivers at a time, besides this program."""
QUIET = 60.0
"""Seconds that the hub has to come to rest."""


class Churn:
    """One run."""

    def __init__(self, seed: int, seconds: float) -> None:
        self.seed = seed
        self.end = time.monotonic() + seconds
        self.half = self.end - seconds / 2
        self.memory_at_half = 0
        self.did: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.hub = standing.start(f"churn-{os.getpid()}", num_cpus=4, object_store_memory=STORE)

    def run(self) -> None:
        """All of it, with the checks at the end."""
        try:
            self._warm_up()
            self._settle("at the beginning")
            before = self._descriptors()
            memory = self._memory()
            threads = [threading.Thread(target=self._slot, args=(number,)) for number in range(SLOTS)]
            threads.append(threading.Thread(target=self._commands))
            for thread in threads:
                thread.start()
            self._count_on()
            for thread in threads:
                thread.join()
            self._end_what_stays()
            self._settle("at the end")
            self._check_descriptors(before)
            self._check_store()
            # the rings of what it remembers fill up first; what comes later would be a leak
            self.did["the hub grew by kB"] = (self._memory() - memory) // 1000
            self.did["of it in the second half"] = (self._memory() - self.memory_at_half) // 1000
        finally:
            standing.stop(self.hub)
        left = _marked(self.hub.folder)
        if left or os.path.exists(self.hub.folder):
            self.wrong.append(f"left after the end of the hub: {left or self.hub.folder}")

    def _memory(self) -> int:
        """Resident bytes of the hub."""
        resident: int = psutil.Process(self.hub.pid).memory_info().rss
        return resident

    def _warm_up(self) -> None:
        """One call, so that all is open that a hub opens once."""
        skate.init(address=self.hub.address)
        try:
            skate.get(large.remote("warm", 1), timeout=60)
        finally:
            skate.shutdown()

    # -------------------------------------------------------------------- who churns

    def _slot(self, slot: int) -> None:
        """One driver after the other."""
        chance = random.Random(f"churn:{self.seed}:{slot}")
        number = 0
        while time.monotonic() < self.end and not self.wrong:
            number += 1
            mark = f"driver-{slot}-{number % 5}"  # sometimes one that was there before
            lives, seconds = chance.uniform(0.1, 4.0), chance.uniform(0.1, 4.0)
            command = [sys.executable, "-m", "skate.testing.churn_driver", self.hub.address, mark]
            driver = subprocess.Popen(
                [*command, f"{self.seed}:{slot}:{number}", str(seconds)], stderr=subprocess.PIPE, text=True
            )
            try:
                _, errors = driver.communicate(timeout=lives)
            except subprocess.TimeoutExpired:
                driver.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
                _, errors = self._await_end(driver)
                self.did["drivers killed"] += 1
                continue
            self.did["drivers that ended by themselves"] += 1
            if driver.returncode:
                self.wrong.append(f"driver {mark} ended with {driver.returncode}:\n{errors[-3000:]}")

    def _await_end(self, driver: subprocess.Popen[str]) -> tuple[str, str]:
        try:
            return driver.communicate(timeout=10)
        except subprocess.TimeoutExpired:  # it was in the middle of something that catches a Ctrl-C
            driver.kill()
            return driver.communicate()

    def _commands(self) -> None:
        """The command line, over and over."""
        chance = random.Random(f"churn:{self.seed}:commands")
        number = 0
        while time.monotonic() < self.end and not self.wrong:
            number += 1
            name = f"job-{number}"
            self._command("job", "submit", "--no-wait", "--submission-id", name, "--", f"echo {name}; sleep 0.3")
            if chance.random() < 0.3:
                self._command("job", "stop", "--no-wait", name)
            else:
                shown = self._command("job", "logs", "--follow", name)
                if shown not in (f"{name}\n", ""):
                    self.wrong.append(f"the log of {name} has {shown!r}")
            self._command("status", "--json")
            self._command("job", "list")

    def _command(self, *words: str) -> str:
        words = (
            (*words[:2], "--address", self.hub.address, *words[2:])
            if words[0] == "job"
            else (*words, "--address", self.hub.address)
        )
        done = subprocess.run([sys.executable, "-m", "skate", *words], capture_output=True, text=True, timeout=60)
        self.did["commands"] += 1
        if done.returncode:
            self.wrong.append(f"skate {' '.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout

    def _count_on(self) -> None:
        """This program's own actor and object, while all that happens."""
        skate.init(address=self.hub.address, namespace="bystander")
        try:
            tally = Tally.remote("bystander")
            kept = skate.put(b"kept" * 100_000)
            count = 0
            while time.monotonic() < self.end and not self.wrong:
                count += 1
                found = skate.get(tally.add.remote(count), timeout=60)
                if found != ("bystander", count):
                    self.wrong.append(f"the bystander's actor answered {found}, not {count}")
                if not self.memory_at_half and time.monotonic() > self.half:
                    self.memory_at_half = self._memory()
                if count % 50 == 0 and skate.get(kept, timeout=60) != b"kept" * 100_000:
                    self.wrong.append("the bystander's object has changed")
                time.sleep(0.01)
            self.did["calls of the bystander"] = count
        finally:
            skate.shutdown()

    # ------------------------------------------------------------------ what is left

    def _end_what_stays(self) -> None:
        """Detached actors are to be there, and to end when they are told to."""
        skate.init(address=self.hub.address, namespace="bystander")
        try:
            for row in self._rows("names"):
                if row["name"] == "stays":
                    with contextlib.suppress(ValueError):
                        actor: Any = skate.get_actor(row["name"], namespace=row["namespace"])
                        if skate.get(actor.add.remote(0), timeout=60)[0] != row["namespace"]:
                            self.wrong.append(f"the actor that stays in {row['namespace']} is another's")
                        skate.kill(actor)
                        self.did["actors that stayed"] += 1
        finally:
            skate.shutdown()

    def _rows(self, kind: str) -> list[dict[str, Any]]:
        with Visit(self.hub.address) as visit:
            rows: list[dict[str, Any]] = visit.ask("state", kind)
        return rows

    def _left(self) -> dict[str, Any]:
        """What there is in the hub that a hub at rest has not."""
        alive = [row for row in self._rows("actors") if row["state"] != "DEAD"]
        running = [row for row in self._rows("tasks") if row["state"] not in ("FINISHED", "FAILED")]
        jobs = [row for row in self._rows("jobs") if row["status"] in ("PENDING", "RUNNING")]
        found: dict[str, Any] = {"actors": alive, "tasks": running, "jobs": jobs}
        found |= {kind: self._rows(kind) for kind in ("objects", "names")}
        found["groups"] = [row for row in self._rows("placement_groups") if row["state"] != "REMOVED"]
        zygote_and_workers = _marked(self.hub.folder)
        found["processes"] = zygote_and_workers if len(zygote_and_workers) > 1 else []
        return {kind: rows for kind, rows in found.items() if rows}

    def _settle(self, when: str) -> None:
        """Wait until nothing is left."""
        deadline = time.monotonic() + QUIET
        while left := self._left():
            if time.monotonic() > deadline:
                self.wrong.append(f"left in the hub {when}: {str(left)[:3000]}")
                return
            time.sleep(0.1)

    def _descriptors(self) -> Counter[str]:
        """What the hub has open, without the numbers that tell one pipe from another."""
        found: Counter[str] = Counter()
        for process in (self.hub.pid, *_marked(self.hub.folder)):
            kind = "hub" if process == self.hub.pid else "zygote"
            for entry in os.listdir(f"/proc/{process}/fd"):
                with contextlib.suppress(FileNotFoundError):
                    what = os.readlink(f"/proc/{process}/fd/{entry}").partition(":[")[0]
                    found[f"{what} in the {kind}"] += 1
        return found

    def _check_descriptors(self, before: Counter[str]) -> None:
        deadline = time.monotonic() + QUIET
        while more := self._descriptors() - before:
            if time.monotonic() > deadline:
                self.wrong.append(f"descriptors that are left: {dict(more)}")
                return
            time.sleep(0.1)

    def _check_store(self) -> None:
        """All of the shared memory is free: one object can have nearly all of it, and nothing goes to a file."""
        skate.init(address=self.hub.address)
        try:
            ref = skate.put(bytes(STORE - 2_000_000))
            with Visit(self.hub.address) as visit:
                folder = visit.ask("spill_folder")
            files = [name for name in os.listdir(folder) if name != "lock"] if os.path.isdir(folder) else []
            if files:
                self.wrong.append(f"the shared memory is not free: {files} had to go to files")
            del ref
        finally:
            skate.shutdown()


@click.command()
@click.option("--minutes", default=10.0, show_default=True, help="How long.")
@click.option("--seed", default=1, show_default=True, help="Decides who does what, and who is killed when.")
def main(minutes: float, seed: int) -> None:
    """Drivers come to a standing hub and are killed at random; nothing of one may reach another, or stay."""
    churn = Churn(seed, minutes * 60)
    churn.run()
    click.echo(", ".join(f"{what}: {count}" for what, count in sorted(churn.did.items())))
    for problem in churn.wrong:
        click.echo(f"WRONG: {problem}", err=True)
    sys.exit(1 if churn.wrong else 0)


if __name__ == "__main__":
    main()
