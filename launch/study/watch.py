"""`allgrad study watch`: a page of a study while it runs, for a browser on this machine, and nothing but to read."""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from allgrad.ddp.errors import ConfigurationError
from allgrad.launch.study.live import Live
from allgrad.launch.study.watch_page import PAGE

HOST = "127.0.0.1"
OURS = HOST, "localhost"  # names by which a browser may ask; not those that a page from elsewhere points here
TYPES = {
    "html": "text/html; charset=utf-8", "csv": "text/csv; charset=utf-8", "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8", "json": "application/json",
}  # fmt: skip


def watch(directory, port=0) -> int:
    """Serve the page of a study's directory until Ctrl-C; returns the exit status."""
    with server(directory, port) as page:
        print(f"{directory}: http://{HOST}:{page.server_address[1]}/ (Ctrl-C ends this, and not the study)", flush=True)
        try:
            page.serve_forever(poll_interval=0.2)
        except KeyboardInterrupt:
            print(file=sys.stderr)
    return 0


def server(directory, port=0) -> ThreadingHTTPServer:
    """A server of the page, bound to a port of this machine alone; any that is free if 0."""
    live = Live(directory)

    class Handler(_Page):
        study = live

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(f"--port {port} cannot be used ({error}): give another, or 0 for any") from None


class _Page(BaseHTTPRequestHandler):
    """Answers GET and HEAD with the page, its status, and files of the directory by their names."""

    study: Live
    server_version, sys_version = "allgrad", ""

    def do_GET(self):
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        path = unquote(urlsplit(self.path).path).removeprefix("/")
        if host not in OURS:
            self._answer(403, b"This page is for this machine alone.\n", "txt")
        elif path == "":
            self._answer(200, PAGE.encode(), "html")
        elif path == "status.json":
            self._answer(200, json.dumps(self.study.status()).encode(), "json")
        elif (content := self.study.read(path)) is not None:
            self._answer(200, content, path.rpartition(".")[2])
        else:
            self._answer(404, b"There is no such file.\n", "txt")

    do_HEAD = do_GET

    def _answer(self, status, content, kind):
        self.send_response(status)
        self.send_header("Content-Type", TYPES[kind])
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format, *args):
        """Nothing: a line every two seconds would say nothing."""
