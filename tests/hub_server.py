"""A local stand-in for the Hugging Face hub: as much of its protocol as downloads need, and its ways to fail.

Large files are redirected to another host name, as the hub does: `localhost` beside `127.0.0.1`.
"""

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".bin"))


@dataclass
class Repository:
    files: dict[str, bytes]
    gated: bool = False
    damaged: bool = False
    """Large files arrive with one byte changed."""
    cut_at: int | None = None
    """Large files end after so many bytes, and the server answers 503 from then on."""
    stall_at: int | None = None
    """Large files stop after so many bytes, and nothing more comes until the connection is closed."""


@dataclass
class Hub:
    """Serves repositories while it is entered; `requests` are the method, path and Range of all that came."""

    repositories: dict[str, Repository]
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def __enter__(self) -> "Hub":
        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.stopped = threading.Event()
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self.thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        if not self.stopped.is_set():
            self.stopped.set()
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()

    def ranges(self) -> list[str | None]:
        """Ranges that large files were asked for."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.startswith("/cdn/")]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    down = False

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path, _, _ = self.path.partition("?")
        self.hub.requests.append((self.command, path, self.headers.get("Range")))
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            self.describe("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        elif parts[0] == "cdn":
            self.send_large("/".join(parts[1:3]), parts[3])
        elif len(parts) == 5 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], parts[4])
        else:
            self.reply(404, {})

    def find(self, name: str, revision: str) -> Repository | None:
        """Find a repository, or answer that there is none."""
        repository = self.hub.repositories.get(name)
        if repository is None:
            self.reply(401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
        elif revision not in ("main", COMMIT):
            self.reply(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return None
        return repository

    def describe(self, name: str, revision: str) -> None:
        repository = self.find(name, revision)
        if repository is None:
            return
        siblings = []
        for file, content in repository.files.items():
            sibling = {"rfilename": file, "size": len(content), "blobId": git_name(content)}
            if is_large(file):
                sha256 = hashlib.sha256(content).hexdigest()
                sibling["lfs"] = {"size": len(content), "sha256": sha256, "pointerSize": 130}
            siblings.append(sibling)
        answer = {"_id": "1", "id": name, "modelId": name, "sha": COMMIT, "tags": [], "siblings": siblings}
        body = json.dumps({**answer, "private": False, "gated": "manual" if repository.gated else False}).encode()
        self.reply(200, {"Content-Type": "application/json"}, body)

    def resolve(self, name: str, revision: str, file: str) -> None:
        repository = self.find(name, revision)
        if repository is None:
            return
        if repository.gated:
            self.reply(401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
        elif file not in repository.files:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        elif is_large(file):
            content = repository.files[file]
            linked = {
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            }
            location = f"http://localhost:{self.hub.port}/cdn/{name}/{file}"
            self.reply(302, {"X-Repo-Commit": COMMIT, "Location": location, **linked})
        else:
            content = repository.files[file]
            self.reply(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_name(content)}"'}, content)

    def send_large(self, name: str, file: str) -> None:
        repository = self.hub.repositories[name]
        if repository.cut_at == 0:
            self.reply(503, {})
            return
        content = repository.files[file]
        if repository.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = repository.cut_at or repository.stall_at or len(content)
        self.wfile.write(content[start:end])
        if repository.stall_at is not None:
            self.hub.stopped.wait(60)
        if repository.cut_at is not None:
            repository.cut_at = 0
        self.close_connection = True

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def git_name(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
