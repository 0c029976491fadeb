"""Crawl a web site in parallel: `wait` hands over pages as they arrive, in whatever order.

The site is served from this program on the loopback interface, so no network is needed. Two of
its pages are missing, and one answers only at the second attempt: the first is an error that the
crawler reports, the second is healed by `retry_exceptions`.
"""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.error import HTTPError
from urllib.request import urlopen

import skate as ray

PAGES = 60
MISSING = {"/17", "/31"}
BUSY = "/8"  # answers 503 once
LINK = re.compile(r'href="([^"]+)"')


class PageIsBusyError(Exception):
    """The server asks to come back later."""


class Site(BaseHTTPRequestHandler):
    """Page n links to pages 2n + 1, 2n + 2 and back to its parent."""

    asked: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        first_time = self.path not in self.asked
        self.asked.add(self.path)
        page = int(self.path[1:])
        status = 404 if self.path in MISSING else 503 if first_time and self.path == BUSY else 200
        links = [2 * page + 1, 2 * page + 2, max(0, (page - 1) // 2)]
        text = "".join(f'<a href="/{n}">{n}</a>' for n in links if n < PAGES)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Keep quiet: the requests are not what this program wants to show."""


@ray.remote(max_retries=3, retry_exceptions=[PageIsBusyError])
def links_of(site: str, page: str) -> list[str]:
    """Fetch one page; raises HTTPError if it is not there."""
    try:
        with urlopen(site + page, timeout=10) as answer:
            return LINK.findall(answer.read().decode())
    except HTTPError as error:
        if error.code == 503:
            raise PageIsBusyError(page) from None
        # An HTTPError holds the open connection, which cannot travel to another process.
        raise LookupError(f"{page}: {error.code} {error.reason}") from None


def crawl(site: str) -> tuple[dict[str, list[str]], list[str]]:
    """Follow all links from page 0; return the links of each page found, and the failures."""
    found: dict[str, list[str]] = {}
    failed: list[str] = []
    pages = {links_of.remote(site, "/0"): "/0"}  # what is on its way
    known = {"/0"}
    while pages:
        (ref,), _ = ray.wait(list(pages))
        page = pages.pop(ref)
        try:
            found[page] = ray.get(ref)
        except LookupError as error:
            failed.append(page)
            print(f"missing: {str(error).splitlines()[-1]}")
            continue
        for link in found[page]:
            if link not in known:
                known.add(link)
                pages[links_of.remote(site, link)] = link
    return found, failed


def main() -> None:
    ray.init()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found, failed = crawl(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()

    assert set(failed) == MISSING
    # What only a missing page links to cannot be found.
    lost = {f"/{n}" for n in (35, 36)} | MISSING
    assert set(found) == {f"/{n}" for n in range(PAGES)} - lost
    print(f"crawler: {len(found)} pages found, {len(failed)} missing")
    ray.shutdown()


if __name__ == "__main__":
    main()
