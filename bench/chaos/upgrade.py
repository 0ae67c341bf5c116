"""Clients that offer HTTP/2 in an Upgrade: Java's HttpClient by default, and `curl --http2`. (11)"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.chaos import raw
from bench.chaos.raw import Peer
from bench.chaos.result import Result
from bench.chaos.target import Service

BODY = b'{"text":"a good film"}'
OFFER = {
    "Connection": "Upgrade, HTTP2-Settings",
    "HTTP2-Settings": "AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
    "Upgrade": "h2c",
    "User-Agent": "Java-http-client/17.0.15",
}
"""As Java 17 sends them."""
JAVA = """
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

public class Ask {
    public static void main(String[] arguments) throws Exception {
        var client = HttpClient.newHttpClient();
        for (int i = 0; i < 2; i++) {
            var request = HttpRequest.newBuilder(URI.create(arguments[0])).header("Content-Type", "application/json")
                .POST(HttpRequest.BodyPublishers.ofString(arguments[1])).build();
            var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(answer.statusCode());
        }
    }
}
"""


def offers(models: Path, *, java: bool = True) -> Result:
    """POSTs that offer h2c: the same bytes as Java sends, in one piece and in two, curl, and Java where it is."""
    result = Result(
        11, "`Upgrade: h2c` (Java's HttpClient, `curl --http2`)", "the offer is ignored: 200, the body read"
    )
    statuses: dict[str, object] = {}
    with Service(models, "sentiment", workers="1") as service:
        url = f"http://{service.address[0]}:{service.address[1]}/classify"
        data = raw.request("/classify", BODY, headers=OFFER)
        with Peer(service.address) as peer:
            peer.send(data)
            statuses["in one piece"] = peer.reply(5.0).status
            peer.send(data)
            statuses["again on that connection"] = peer.reply(5.0).status
        with Peer(service.address) as peer:
            peer.send(data[: -len(BODY)])
            peer.send(BODY)
            statuses["head, then body"] = peer.reply(5.0).status
        statuses["a GET"] = raw.ask(service.address, raw.request("/health/live", headers=OFFER)).status
        websocket = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        websocket["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        statuses["an offer of a websocket"] = raw.ask(
            service.address, raw.request("/health/live", headers=websocket)
        ).status
        if shutil.which("curl"):
            statuses["curl --http2"] = _curl(url)
        if java and shutil.which("java"):
            statuses["Java's HttpClient, twice"] = _java(url)
    for name, status in statuses.items():
        result.put(name, status)
    result.met = all(status in (200, [200, 200], "cannot run here") for status in statuses.values())
    return result


def _curl(url: str) -> object:
    command = ["curl", "-s", "--http2", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", url, "-d", BODY.decode()]
    done = subprocess.run(
        [*command, "-H", "Content-Type: application/json"], capture_output=True, text=True, timeout=20
    )
    return int(done.stdout) if done.stdout.isdigit() else done.stderr.strip() or "cannot run here"


def _java(url: str) -> object:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        file = Path(folder) / "Ask.java"
        file.write_text(JAVA)
        done = subprocess.run(
            ["java", str(file), url, json.dumps(json.loads(BODY))], capture_output=True, text=True, timeout=60
        )
    words = done.stdout.split()
    if done.returncode and "compiler" in done.stderr:  # a runtime without a compiler
        return "cannot run here"
    return [int(word) for word in words] or done.stderr.strip().splitlines()[0]
