"""As much of the hub as its client needs to find, list, read and fill one dataset repository."""

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

REPOSITORY = "somebody/tiny"
TOKEN = "hf_of_somebody"
TEXT = (".json", ".md")
"""Endings of files that git keeps itself."""


@dataclass
class Hub:
    """Commits, newest last, as the files that each of them shows; blobs by their sha256."""

    commits: list[dict[str, str]] = field(default_factory=lambda: [{}])
    blobs: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    """Blobs that were sent through the store of large files."""
    uploads: int = 0
    busy: list[int] = field(default_factory=list)
    """Statuses that the next commits get instead of being made, the last one first."""
    lost: bool = False
    """Whether the next commit is made, and answered as if it were not."""
    downloads: list[tuple[str, str | None, int]] = field(default_factory=list)
    """Name, asked range and bytes of every file that was handed out."""
    leaked: list[str] = field(default_factory=list)
    """Tokens that came to the store of large files, which is another host."""

    def fill(self, folder: Path) -> None:
        """Add a commit with every file below a folder."""
        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        blobs = {name: path.read_bytes() for name, path in files.items()}
        oids = {name: hashlib.sha256(content).hexdigest() for name, content in blobs.items()}
        self.blobs |= {oids[name]: content for name, content in blobs.items()}
        self.large |= {oids[name] for name in oids if not name.endswith(TEXT)}
        self.commits.append(oids)

    def sha(self, number: int = -1) -> str:
        return f"{number % len(self.commits):040x}"

    def at(self, revision: str) -> dict[str, str] | None:
        if revision == "main":
            return self.commits[-1]
        number = int(revision, 16) if re.fullmatch("[0-9a-f]{40}", revision) else len(self.commits)
        return self.commits[number] if number < len(self.commits) else None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "FakeHub"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        api = f"/api/datasets/{REPOSITORY}"
        if path.startswith("/large/"):
            return self._large(path.removeprefix("/large/"), body)
        if not re.match(rf"(/api)?/datasets/{REPOSITORY}[./]|/api/validate-yaml", path):
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        writes = self.command == "POST" and not re.search("paths-info|validate-yaml", path)
        if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(401, {"error": "Invalid credentials"})
        kind, _, rest = path.removeprefix(api + "/").partition("/")
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == f"/datasets/{REPOSITORY}.git/info/lfs/objects/batch":
            return self._batch(json.loads(body))
        if path.startswith(f"/datasets/{REPOSITORY}/resolve/"):
            return self._resolve(*path.removeprefix(f"/datasets/{REPOSITORY}/resolve/").split("/", 1))
        return getattr(self, f"_{kind.replace('-', '_')}")(rest, body)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _revision(self, revision: str, _: bytes) -> None:
        files = self.server.hub.at(revision)
        if files is None:
            return self._answer(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"})
        sha = self.server.hub.sha() if revision == "main" else revision
        self._answer(200, {"id": REPOSITORY, "sha": sha, "private": False, "tags": [], "downloads": 0})

    def _tree(self, rest: str, _: bytes) -> None:
        revision, _, folder = rest.partition("/")
        files = self.server.hub.at(revision) or {}
        inside = f"{folder}/" if folder else ""
        below = {name: oid for name, oid in files.items() if name.startswith(inside)}
        if folder and not below:
            return self._answer(404, {"error": "no such entry"}, {"X-Error-Code": "EntryNotFound"})
        rows = [
            self._row(name, oid)
            for name, oid in sorted(below.items())
            if "recursive=true" in self.path.lower() or "/" not in name.removeprefix(inside)
        ]
        folders = sorted({inside + name.removeprefix(inside).split("/")[0] for name in below} - below.keys())
        self._answer(200, rows + [{"type": "directory", "path": name, "oid": "0" * 40} for name in folders])

    def _paths_info(self, revision: str, body: bytes) -> None:
        files = self.server.hub.at(revision) or {}
        asked = parse_qs(body.decode())["paths"]
        self._answer(200, [self._row(name, files[name]) for name in asked if name in files])

    def _preupload(self, revision: str, body: bytes) -> None:
        hub, files = self.server.hub, []
        for name in (file["path"] for file in json.loads(body)["files"]):
            mode = "regular" if name.endswith(TEXT) else "lfs"
            there = hub.commits[-1].get(name)
            if there is not None and mode == "regular":
                content = hub.blobs[there]
                there = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
            files.append({"path": name, "shouldIgnore": False, "uploadMode": mode, "oid": there})
        self._answer(200, {"files": files})

    def _batch(self, asked: dict) -> None:
        host = self.headers["Host"]
        objects = []
        for wanted in asked["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.hub.large:
                answer["actions"] = {"upload": {"href": f"http://{host}/large/{wanted['oid']}"}}
            objects.append(answer)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, revision: str, body: bytes) -> None:
        hub = self.server.hub
        if hub.busy:
            return self._answer(hub.busy.pop(), {"error": "busy"})
        header, *operations = [json.loads(line) for line in body.splitlines()]
        if header["value"].get("parentCommit", hub.sha()) != hub.sha():
            return self._answer(412, {"error": "A commit has happened since"})
        files = dict(hub.commits[-1])
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                content = base64.b64decode(value["content"])
                files[value["path"]] = oid = hashlib.sha256(content).hexdigest()
                hub.blobs[oid] = content
            else:
                assert operation["key"] == "lfsFile"
                assert value["oid"] in hub.blobs
                files[value["path"]] = value["oid"]
        hub.commits.append(files)
        if hub.lost:
            hub.lost = False
            return self._answer(502, {"error": "lost"})
        url = f"http://{self.headers['Host']}/datasets/{REPOSITORY}/commit/{hub.sha()}"
        self._answer(200, {"commitUrl": url, "commitOid": hub.sha()})

    def _large(self, oid: str, body: bytes) -> None:
        hub = self.server.hub
        if self.command == "PUT":
            hub.uploads += 1
            hub.blobs[oid] = body
            hub.large.add(oid)
            return self._answer(200, {})
        hub.leaked += self.headers.get_all("Authorization", [])
        self._hand_out(oid, hub.blobs[oid])

    def _resolve(self, revision: str, name: str) -> None:
        hub = self.server.hub
        oid = (hub.at(revision) or {}).get(name)
        if oid is None:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        if oid in hub.large:
            return self._answer(
                302, {}, {"Location": f"http://localhost:{self.server.server_port}/large/{oid}"}
            )
        self._hand_out(name, hub.blobs[oid])

    def _hand_out(self, name: str, content: bytes) -> None:
        asked = self.headers.get("Range")
        headers = {"Content-Type": "application/octet-stream"}
        status, total = 200, len(content)
        if asked is not None:
            begin, _, end = asked.removeprefix("bytes=").partition("-")
            first = int(begin) if begin else max(0, total - int(end))
            last = min(int(end), total - 1) if begin and end else total - 1
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{total}"
        self.server.hub.downloads.append((name, asked, len(content)))
        self._answer(status, content, headers)

    def _row(self, name: str, oid: str) -> dict[str, object]:
        content = self.server.hub.blobs[oid]
        size = len(content)
        git = hashlib.sha1(b"blob %d\0%s" % (size, content)).hexdigest()
        row: dict[str, object] = {"type": "file", "path": name, "oid": git, "size": size}
        if oid in self.server.hub.large:
            row["lfs"] = {"oid": oid, "size": size, "pointerSize": 130}
        return row

    def _answer(self, status: int, content: object, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class FakeHub(ThreadingHTTPServer):
    """Serves one hub on loopback."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = Hub()
