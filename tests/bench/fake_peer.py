"""A peer that says "positive" to everything: at once where it may batch 32, a little later otherwise."""

import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bench.peers import order

ORDERED = order.read()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.0 if ORDERED.configuration.batch == 32 else 0.03)
        body = json.dumps({"label": "positive"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", ORDERED.port), Handler).serve_forever()
