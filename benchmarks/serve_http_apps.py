"""The contestants of `serve_http.py`: the same ASGI application on a bare server, on Skate's serve and on Ray's.

python benchmarks/serve_http_apps.py bare|skate|skate-ray|ray PORT
"""

from __future__ import annotations

import sys
import threading
from typing import Any

JSON = b'{"hello":"world"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"17")]


class App:
    """Answers a short JSON; under ``/chunks?N`` a stream of N chunks."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/chunks":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            for _ in range(int(scope["query_string"])):
                await send({"type": "http.response.body", "body": b"0123456789abcdef", "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            return
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": JSON})


def bare(port: int) -> None:
    """uvicorn with uvloop and httptools."""
    import uvicorn

    uvicorn.run(
        App(), port=port, log_level="warning", access_log=False, http="httptools", loop="uvloop", lifespan="off"
    )


def served(port: int, which: str) -> None:
    """Skate's serve, on its own engine or on Ray; or Ray's serve with its defaults."""
    if which == "ray":
        import ray
        from ray import serve

        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    else:
        import skate
        from skate import serve  # type: ignore[no-redef]

        if which == "skate-ray":
            skate.init(engine="ray", num_cpus=2, include_dashboard=False, log_to_driver=False)
    app = serve.ingress(App())(type("Hello", (), {}))
    serve.start(http_options={"port": port})
    serve.run(serve.deployment(app).bind())
    threading.Event().wait()


if __name__ == "__main__":
    which, where = sys.argv[1], int(sys.argv[2])
    if which == "bare":
        bare(where)
    else:
        served(where, which)
