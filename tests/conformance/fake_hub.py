"""A server that speaks the Hugging Face hub's protocol, with switches for what goes wrong."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", "tokenizer.json")


@dataclass
class Hub:
    """Repositories: id -> file -> bytes. ``requests`` is what was asked: (method, path, Range)."""

    repos: dict[str, dict[str, bytes]]
    gated: dict[str, str] = field(default_factory=dict)
    """Repository -> the token it wants."""
    cut_after: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which the connection of its next GET is dropped, once."""
    corrupt: set[str] = field(default_factory=set)
    """Files whose first byte is flipped on the way."""
    stall: dict[str, int] = field(default_factory=dict)
    """File -> bytes after which a GET never goes on."""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def start(self) -> Hub:
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        self.released.set()
        self.server.shutdown()
        self.server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def gets(self, file: str) -> list[str | None]:
        """Range headers of the GETs of one file's bytes."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(file)]


def _describe(name: str, raw: bytes) -> dict[str, object]:
    blob = hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()
    entry: dict[str, object] = {"rfilename": name, "size": len(raw), "blobId": blob}
    if name.endswith(LARGE):
        entry["lfs"] = {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw), "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlparse(self.path)
        self.hub.requests.append((self.command, url.path, self.headers.get("Range")))
        if url.path == "/api/models":
            words = parse_qs(url.query).get("search", [""])[0].casefold()
            return self._json([{"id": repo} for repo in self.hub.repos if words[:4] in repo.casefold()])
        if match := re.fullmatch(r"/api/models/(.+?)(?:/revision/(.+))?", url.path):
            return self._repo(match[1], match[2] or "main")
        if match := re.fullmatch(r"/cdn/(.+?)/-/(.+)", url.path):
            return self._bytes(self.hub.repos[match[1]][match[2]], match[2], {"ETag": '"of-the-cdn"'})
        if match := re.fullmatch(r"/(.+?)/resolve/(.+?)/(.+)", url.path):
            return self._resolve(match[1], match[2], match[3])
        return self._fail(404, "")

    def _allowed(self, repo: str, revision: str) -> bool:
        if repo not in self.hub.repos:
            self._fail(401, "RepoNotFound")  # what the hub says to somebody without a token
        elif repo in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.gated[repo]}":
            self._fail(401, "GatedRepo")
        elif revision not in ("main", "v1", COMMIT):
            self._fail(404, "RevisionNotFound")
        else:
            return True
        return False

    def _repo(self, repo: str, revision: str) -> None:
        if self._allowed(repo, revision):
            files = [_describe(name, raw) for name, raw in self.hub.repos[repo].items()]
            self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": files})

    def _resolve(self, repo: str, revision: str, name: str) -> None:
        if not self._allowed(repo, revision):
            return
        raw = self.hub.repos[repo].get(name)
        if raw is None:
            self._fail(404, "EntryNotFound")
            return
        entry = _describe(name, raw)
        if "lfs" not in entry:
            self._bytes(raw, name, {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["blobId"]}"'})
            return
        self.send_response(302)
        cdn = f"http://localhost:{self.hub.server.server_port}"  # another host: the client asks the hub only by HEAD
        self.send_header("Location", f"{cdn}/cdn/{repo}/-/{name}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{entry["lfs"]["sha256"]}"')
        self.send_header("X-Linked-Size", str(len(raw)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _bytes(self, raw: bytes, name: str, headers: dict[str, str]) -> None:
        if name in self.hub.corrupt:
            raw = bytes([raw[0] ^ 1]) + raw[1:]
        begin = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            begin = int(match[1])
            headers["Content-Range"] = f"bytes {begin}-{len(raw) - 1}/{len(raw)}"
        self.send_response(206 if begin else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(raw) - begin))
        self.end_headers()
        if self.command == "HEAD":
            return
        if name in self.hub.cut_after:
            self.wfile.write(raw[begin : self.hub.cut_after.pop(name)])
            self.close_connection = True
            return
        if name in self.hub.stall:
            self.wfile.write(raw[begin : self.hub.stall[name]])
            self.wfile.flush()
            self.hub.released.wait()
            return
        self.wfile.write(raw[begin:])

    def _json(self, value: object) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _fail(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()
