"""Deployments of plugins: starting them in a session of Skate or Ray, and ending them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import skate
from skate.configuration import Config
from skate.plugin.backends import SERVE_APP, Part, Plan, Replica, cause_of
from skate.plugin.errors import PluginError
from skate.plugin.starting import TOO_LONG, patiently


class Session:
    """The session that a service's deployments run in."""

    def __init__(self, engine: str, config: Config, parts: list[Part]) -> None:
        self.engine = engine
        self.config = config
        self.parts = parts
        self._ours = False
        self._deployed: list[str] = []

    def start(self, plan: Plan) -> tuple[dict[str, BaseException], dict[str, str]]:
        """Deploy the plugins' classes; those that fail with their causes, and the functions they registered."""
        if not skate.is_initialized():
            server = self.config.server
            skate.init(
                engine=self.engine,
                num_cpus=None if server.num_cpus < 1 else server.num_cpus,
                log_to_driver=True,
                dashboard_host=server.dashboard_host,
                dashboard_port=server.dashboard_port,
            )
            self._ours = True
        failed: dict[str, BaseException] = {}
        functions: dict[str, str] = {}
        with ThreadPoolExecutor(max(1, len(self.parts)), "skate-plugin-start") as threads:
            for part, done in [(part, threads.submit(self._deploy, plan, part)) for part in self.parts]:
                try:
                    functions.update(dict.fromkeys(patiently(done, part.deployment), part.deployment))
                except Exception as error:  # noqa: BLE001  a plugin may fail of anything, the others start
                    error.__context__ = None  # its frames are only ours, and would keep the session's things
                    failed[part.plugin] = error.with_traceback(None)
        return failed, functions

    def deployed_as(self, part: Part) -> tuple[type, str | None, tuple[Any, ...]]:
        """The class that is deployed for a plugin's, its route prefix, and further arguments."""
        return Replica, None, ()

    def _deploy(self, plan: Plan, part: Part) -> list[str]:
        from skate import serve

        options = {"ray_actor_options": {"num_cpus": 0}, **part.options}
        cls, prefix, more = self.deployed_as(part)
        made = serve.deployment(cls, name=part.deployment, **options)
        pickled = skate.cloudpickle.dumps(part.cls)
        app = made.bind(plan, part.plugin, part.deployment, pickled, part.config, *more)
        name = SERVE_APP.format(part.deployment)
        self._deployed.append(name)
        most_s = self.config.server.start_timeout_s
        begun: Any = None
        try:
            begun = serve.run(app, name=name, route_prefix=prefix).start.remote()
            found: list[str] = begun.result(timeout_s=most_s)
        except Exception as error:
            if begun is not None:
                begun.cancel()  # or the replica would wait for it to end
            serve.delete(name)
            self._deployed.remove(name)
            if isinstance(error, skate.exceptions.RayTaskError):
                raise cause_of(error) from None
            if isinstance(error, TimeoutError):
                raise PluginError(TOO_LONG.format(most_s)) from None
            raise
        return found

    def stop(self) -> None:
        """End the deployments, and the session if it was started for them."""
        from skate import serve

        if not skate.is_initialized():
            return
        if self._ours:
            serve.shutdown()
            skate.shutdown()
            self._ours = False
        else:
            for name in self._deployed:
                serve.delete(name)
        self._deployed.clear()
