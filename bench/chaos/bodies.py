"""Attacks by bodies: lists without bound, halves of connections, the edges of HTTP and JSON. (2, 12, 15)"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from bench.chaos import raw
from bench.chaos.engine import Steer, faulty
from bench.chaos.raw import Asker, Peer
from bench.chaos.result import Result
from bench.chaos.target import MB, Service

LIVE = raw.request("/health/live")


def _repeated(before: bytes, each: bytes, after: bytes, size: int) -> bytes:
    return before + b",".join([each] * ((size - len(before) - len(after)) // (len(each) + 1))) + after


def lists(size: int) -> dict[str, tuple[str, bytes]]:
    """Bodies of nearly `size` bytes, one for each place that takes a list or might be made to."""
    many = {
        "inputs of numbers": ("/classify", b'{"inputs":[', b"0", b"]}"),
        "inputs of empty objects": ("/classify", b'{"inputs":[{"premise":"a"},', b"{}", b"]}"),
        "inputs of texts": ("/classify", b'{"inputs":[', b'{"text":"a"}', b"]}"),
        "inputs of lists": ("/classify", b'{"inputs":[', b"[]", b"]}"),
        "questions": ("/qa", b'{"inputs":[', b"{}", b"]}"),
        "documents": ("/qa", b'{"question":"Who?","context":[', b'""', b"]}"),
        "documents that are numbers": ("/qa", b'{"question":"Who?","context":[', b"0", b"]}"),
        "documents of an input": ("/qa", b'{"inputs":[{"question":"Who?","context":[', b'"a"', b"]}]}"),
        "options": ("/qa", b'{"question":"Who?","context":"a","options":[', b'"a"', b"]}"),
        "labels": ("/classify", b'{"text":"a","candidate_labels":[', b'"a"', b"]}"),
        "labels that are numbers": ("/classify", b'{"text":"a","candidate_labels":[', b"0", b"]}"),
        "a list for a text": ("/classify", b'{"text":[', b"0", b"]}"),
        "a list in an unknown field": ("/classify", b'{"text":"a","more":[', b"0", b"]}"),
        "the body is a list": ("/classify", b"[", b"0", b"]"),
    }
    bodies = {name: (path, _repeated(*parts, size)) for name, (path, *parts) in many.items()}  # type: ignore[arg-type, call-arg]
    fields = b",".join(b'"%07x":0' % i for i in range((size - 100) // 12))
    return bodies | {"a wide object": ("/classify", b'{"text":"a",' + fields + b"}")}


def texts(size: int) -> dict[str, tuple[str, bytes]]:
    """Bodies of nearly `size` bytes whose texts take the most of a tokenizer and of what it gives back."""

    def body(before: str, each: str, after: str = '"}') -> bytes:
        room = size - len(before) - len(after)
        return (before + each * (room // len(each.encode())) + after).encode()

    half = "a " * (size // 4)
    return {
        "2 MB of punctuation": ("/classify", body('{"text":"', "!")),
        "2 MB of Chinese": ("/classify", body('{"text":"', "\u4e2d")),
        "2 MB of accents": ("/classify", body('{"text":"a', "\u0301\u0323")),
        "one word of 2 MB": ("/classify", body('{"text":"', "a")),
        "a context of 1,000,000 words": ("/qa", body('{"question":"Who?","context":"', "b ")),
        "a question of 1,000,000 words": ("/qa", body('{"context":"b","question":"', "a ")),
        "question and context of 500,000": ("/qa", body(f'{{"question":"{half}","context":"', "b ")),
        "a number of 2,000,000 digits": ("/qa", body('{"question":"Who?","context":"b","top_k":', "1", "}")),
    }


def unbounded_lists(models: Path, *, size: int = 1_990_000, only: tuple[str, ...] = ()) -> Result:
    """Lists of a million values wherever a list is taken; a client beside that asks whether the service lives."""
    result = Result(
        2,
        f"{size / MB:.0f} MB of JSON lists, wherever a list is taken",
        "loop stopped ≤ 50 ms; RSS ≤ +100 MB; 400, 413 or 422 with one clear error (≤ 2 KB)",
    )
    found = _post_each(models, lists(size), only)
    stop, grown = _tell(result, found)
    wrong = [
        f"{name}: {each.reply.status}, {len(each.reply.body)} bytes"
        for name, each in found.items()
        if each.reply.status not in (400, 413, 422)
        or len(each.reply.body) > 2048
        or not each.reply.json().get("detail")
    ]
    result.put("unclear answers", wrong)
    result.met = stop <= 50 and grown <= 100 and not wrong
    return result


def heavy_texts(models: Path, *, size: int = 1_990_000, only: tuple[str, ...] = ()) -> Result:
    """Texts that are dear to tokenise, as large as a body may be."""
    result = Result(
        2,
        f"{size / MB:.0f} MB of text that is dear to tokenise",
        "loop stopped ≤ 100 ms; RSS ≤ +250 MB (two at once fit into 1 GB); an answer or a clear error within 10 s",
    )
    found = _post_each(models, texts(size), only)
    stop, grown = _tell(result, found)
    slowest = max(found, key=lambda name: found[name].reply.seconds)
    result.put("answered after at most", found[slowest].reply.seconds, "s")
    result.put("namely", slowest)
    wrong = [name for name, each in found.items() if each.reply.status not in (200, 400, 413, 422)]
    result.put("unclear answers", wrong)
    result.met = stop <= 100 and grown <= 250 and found[slowest].reply.seconds <= 10 and not wrong
    return result


@dataclass(frozen=True, slots=True)
class _Posted:
    """What a body did: its answer, milliseconds for which nobody else was answered, MB that memory grew by."""

    reply: raw.Reply
    stop: float
    grown: float


def _post_each(models: Path, bodies: dict[str, tuple[str, bytes]], only: tuple[str, ...]) -> dict[str, _Posted]:
    found = {}
    with Service(models, "sentiment", "qa", "nli", workers="1") as service:
        for path, value in (("/classify", {"text": "good"}), ("/qa", {"question": "Who?", "context": "Ada"})):
            raw.post(service.address, path, value)
        for name, (path, body) in bodies.items():
            if only and name not in only:
                continue
            data = raw.request(path, body, headers={"Connection": "close"})
            before = service.forget_peak()
            with Asker(service.address, LIVE, every=0.002) as beside:
                time.sleep(0.1)
                reply = raw.ask(service.address, data, timeout=30)
                time.sleep(0.1)
            found[name] = _Posted(reply, max(beside.seconds) * 1e3, (service.peak() - before) / MB)
    return found


def _tell(result: Result, found: dict[str, _Posted]) -> tuple[float, float]:
    """Notes the longest stop and the largest growth, and returns them."""
    longest = max(found, key=lambda name: found[name].stop)
    largest = max(found, key=lambda name: found[name].grown)
    result.put("loop stopped at most", found[longest].stop, "ms")
    result.put("by", longest)
    result.put("RSS grown at most", found[largest].grown, "MB")
    result.put("with", largest)
    result.put("statuses", sorted({each.reply.status for each in found.values()}))
    return found[longest].stop, found[largest].grown


def half_close(models: Path) -> Result:
    """A client that shuts its sending side and then reads is answered."""
    result = Result(12, "a client shuts its sending side, then reads", "answered: 200")
    with Service(models, "sentiment", workers="1") as service, Peer(service.address) as peer:
        peer.send(raw.request("/classify", raw.dump({"text": "a good film"})))
        peer.half_close()
        reply = peer.reply()
        result.put("status", reply.status)
        result.put("label", str(reply.json().get("label", "none")))
        # What takes the engine a while: the end of the sending side is long known before the answer is.
    with (
        Steer(seconds=0.5) as steer,
        faulty(models, steer) as slow,
        Peer(slow.address) as peer,
    ):
        peer.send(raw.request("/classify", raw.dump({"text": "a good film"})))
        peer.half_close()
        result.put("status from a slow engine", peer.reply().status)
    result.met = result["status"] == result["status from a slow engine"] == 200
    return result


def departures(models: Path, *, clients: int = 200) -> Result:
    """Clients that post and close at once, while the engine is busy: what does the engine still run for them?"""
    result = Result(
        12,
        f"{clients} clients post and hang up at once, half by a FIN, half by a RST",
        "rows run for them ≤ 10 %, those counted as cancelled; the next client answered",
    )
    body = raw.request("/classify", raw.dump({"text": "a good film"}))
    with (
        Steer(seconds=1.0) as steer,
        faulty(models, steer) as service,
    ):
        first = threading.Thread(target=raw.ask, args=(service.address, body))
        first.start()
        time.sleep(0.3)  # the engine is busy with it for a while yet
        for i in range(clients):
            with Peer(service.address) as peer:
                peer.send(body)
                peer.close(reset=i % 2 == 1)
        first.join()
        last = raw.ask(service.address, body, timeout=30)
        rows = (service.metric("bertie_batch_rows_sum", model="sentiment") or 0) - 2
        result.put("rows run for them", int(rows))
        result.put("cancelled", int(service.metric("bertie_rejected_total", reason="cancelled") or 0))
        result.put("next client", last.status)
        result.put("after", last.seconds, "s")
        result.met = rows <= clients * 0.1 and result["cancelled"] >= clients * 0.5 and last.status == 200
    return result


def edges(models: Path) -> Result:
    """CORS preflight, a byte order mark, Hosts, HTTP/0.9, and a text for a model that takes pairs."""
    result = Result(
        15,
        "CORS preflight; a byte order mark; no Host, two Hosts, HTTP/0.9; a text alone for the model nli",
        "405 without the setting, 200 and headers with it; read; 400 and closed; words that say what it takes",
    )
    origin = "https://example.com"
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    preflight = raw.request("/classify", method="OPTIONS", headers=asked)
    with Service(models, "sentiment", "nli", workers="1") as service:
        without = raw.ask(service.address, preflight)
        result.put("preflight without the setting", without.status)
        text = raw.dump({"text": "a good film"})
        result.put("byte order mark", raw.post(service.address, "/classify", b"\xef\xbb\xbf" + text).status)
        heads = {
            "no Host": b"GET /health/live HTTP/1.1\r\n\r\n",
            "two Hosts": b"GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            "HTTP/0.9": b"GET /health/live\r\n\r\n",
        }
        for name, data in heads.items():
            with Peer(service.address) as peer:
                peer.send(data)
                result.put(name, peer.reply(3.0).status)
                result.put(f"{name}: closed", peer.closed_within(2.0) is not None)
        result.put("no Host in HTTP/1.0", raw.ask(service.address, b"GET /health/live HTTP/1.0\r\n\r\n").status)
        told = raw.post(service.address, "/classify", {"text": "a good film", "model": "nli"})
        result.put("a text for nli", told.status)
        result.put("told", str(told.json().get("detail", "")))
    with Service(models, "sentiment", workers="1", cors_origins=f"{origin},https://example.org") as service:
        allowed = raw.ask(service.address, preflight)
        result.put("preflight with the setting", allowed.status)
        answer = raw.post(service.address, "/classify", {"text": "a good film"}, headers={"Origin": origin})
        other = raw.post(
            service.address, "/classify", {"text": "a good film"}, headers={"Origin": "https://evil.example"}
        )
        permitted = "access-control-allow-origin"
        result.put("origin allowed", [str(each.headers.get(permitted)) for each in (allowed, answer, other)])
    words = result["told"].lower()
    result.met = (
        without.status == 405
        and permitted not in without.headers
        and allowed.status == 200
        and result["origin allowed"] == [origin, origin, "None"]
        and "post" in allowed.headers.get("access-control-allow-methods", "").lower()
        and result["byte order mark"] == 200
        and all(result[name] == 400 and result[f"{name}: closed"] for name in heads)
        and result["no Host in HTTP/1.0"] == 200
        and told.status == 422
        and "premise" in words
        and "hypothesis" in words
    )
    return result
