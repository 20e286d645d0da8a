"""HTTP downloads that give up quickly: hosts are asked all at once first, and each file has a size and a time limit."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable

ANSWER_SECONDS = 3.0
SILENCE_SECONDS = 10.0
FILE_SECONDS = 600.0
CHUNK = 1 << 16


def reachable(urls: Iterable[str], seconds: float = ANSWER_SECONDS) -> dict[str, str]:
    """Return {url: why its host does not answer, or ""}, after at most ``seconds`` in all.

    Without this, each host that drops packets would cost its own time-out, and name servers that do not answer more.
    """
    answers = dict.fromkeys(urls, f"no answer within {seconds:g} s")

    def knock(url: str) -> None:
        parts = urllib.parse.urlsplit(url)
        try:
            if not _behind_proxy(parts.scheme, parts.hostname or ""):
                port = parts.port or {"https": 443}.get(parts.scheme, 80)
                socket.create_connection((parts.hostname or "", port), timeout=seconds).close()
            answers[url] = ""
        except (OSError, ValueError) as error:
            answers[url] = getattr(error, "strerror", None) or str(error)

    threads = [threading.Thread(target=knock, args=(url,), daemon=True) for url in answers]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _behind_proxy(scheme: str, host: str) -> bool:
    return scheme in urllib.request.getproxies() and not urllib.request.proxy_bypass(host)


def download(url: str, limit: int, progress: Callable[[int, int], None]) -> bytes:
    """Return the bytes at ``url``.

    Raises ValueError above ``limit`` bytes or FILE_SECONDS, OSError when the transfer fails.
    """
    deadline = time.monotonic() + FILE_SECONDS
    chunks, size = [], 0
    request = urllib.request.Request(url, headers={"User-Agent": "protocaffe"})
    try:
        with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as reply:
            total = int(reply.headers.get("Content-Length") or 0)
            while chunk := reply.read(CHUNK):
                chunks.append(chunk)
                size += len(chunk)
                if max(size, total) > limit:
                    raise ValueError(f"more than {limit} bytes")
                if time.monotonic() > deadline:
                    raise ValueError(f"not complete after {FILE_SECONDS:g} s")
                progress(size, total)
    except http.client.HTTPException as error:
        raise OSError(f"{type(error).__name__}: {error}") from error
    if total and size != total:
        raise ValueError(f"{total} bytes announced, {size} received")
    return b"".join(chunks)
