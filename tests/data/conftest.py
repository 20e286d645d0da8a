"""A tiny MNIST (2,500 + 30 images) under the real one's name, with places that serve its files."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import struct
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from protocaffe.data import catalogue


class TinySet:
    def __init__(self):
        rng = np.random.default_rng(0)
        self.arrays = {}
        self.contents = {}
        self.data_set = replace(catalogue.MNIST, mirrors=(), pip_requirement="", debian_package="")
        for key, count in (("train", 2500), ("test", 30)):
            images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
            self.arrays[key] = (images, labels)
            split = getattr(catalogue.MNIST, key)
            self.contents[split.images.stem] = struct.pack(">IIII", 0x803, count, 28, 28) + images.tobytes()
            self.contents[split.labels.stem] = struct.pack(">II", 0x801, count) + labels.tobytes()
            files = {
                part: replace(
                    getattr(split, part),
                    size=len(self.contents[getattr(split, part).stem]),
                    sha256=hashlib.sha256(self.contents[getattr(split, part).stem]).hexdigest(),
                )
                for part in ("images", "labels")
            }
            self.data_set = replace(self.data_set, **{key: replace(split, count=count, **files)})

    def packed(self, stem):
        return gzip.compress(self.contents[stem], mtime=0)

    def fill(self, folder, rename=lambda stem: stem, pack=False):
        folder.mkdir(parents=True, exist_ok=True)
        for stem, content in self.contents.items():
            (folder / (rename(stem) + ".gz" * pack)).write_bytes(self.packed(stem) if pack else content)
        return folder


@pytest.fixture
def tiny_set(monkeypatch):
    tiny = TinySet()
    monkeypatch.setitem(catalogue.DATA_SETS, "mnist", tiny.data_set)
    return tiny


@pytest.fixture
def serve():
    """Serve {path: bytes} on this machine; returns the address."""
    servers = []

    def start(files):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                content = files.get(self.path.lstrip("/"))
                self.send_response(404 if content is None else 200)
                self.send_header("Content-Length", str(len(content or b"")))
                self.end_headers()
                self.wfile.write(content or b"")

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_address[1]}/"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def fake_command(tmp_path, monkeypatch):
    """Put commands written in Python, and nothing else, on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def make(name, code):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}")
        path.chmod(0o755)
        return path

    return make
