"""A hub of one's own: an HTTP server that speaks what huggingface_hub asks, over folders, and counts what it was asked.

    with HubServer({"owner/model": {COMMIT_A: folder, COMMIT_B: folder}}) as hub:
        subprocess.run(..., env={"HF_ENDPOINT": hub.address, ...})

The last commit of a repository is its main branch.
"""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

REPOSITORY = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}


class HubServer:
    """Serves repositories: name -> commit (40 hex digits) -> folder. Those in ``gated`` ask for a log-in."""

    def __init__(self, repositories, gated=()):
        self.repositories = {name: dict(commits) for name, commits in repositories.items()}
        self.gated = set(gated)
        self.requests = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def log_message(self, *arguments):
                pass

            def answer(self, body):
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                status, headers, content = hub.respond(path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *arguments):
        self.server.shutdown()
        self.server.server_close()

    def respond(self, path):
        """Returns the status, headers and content for a path: /api/models/... or /owner/model/resolve/revision/file."""
        api = path.startswith("/api/models/")
        rest = path.removeprefix("/api/models/").strip("/")
        name = next(
            (found for found in self.repositories if rest == found or rest.startswith(f"{found}/")), None
        )
        if name is None:
            return _refusal("RepoNotFound")
        if name in self.gated:
            return _refusal("GatedRepo")
        action, _, after = rest.removeprefix(name).strip("/").partition("/")
        revision, _, file = after.partition("/")
        commit = self.commit(name, revision or "main")
        if commit is None:
            return _refusal("RevisionNotFound")
        folder = Path(self.repositories[name][commit])
        if not api:
            return self.file(folder, commit, file) if action == "resolve" else _refusal("EntryNotFound")
        files = sorted(str(found.relative_to(folder)) for found in folder.rglob("*") if found.is_file())
        if action == "tree":
            rows = [
                {
                    "type": "file",
                    "path": found,
                    "size": (folder / found).stat().st_size,
                    "oid": _etag(folder / found),
                }
                for found in files
            ]
            return _json(rows, commit)
        return _json(
            {
                "id": name,
                "modelId": name,
                "sha": commit,
                "siblings": [{"rfilename": found} for found in files],
            },
            commit,
        )

    def commit(self, name, revision):
        commits = self.repositories[name]
        return list(commits)[-1] if revision == "main" else revision if revision in commits else None

    def file(self, folder, commit, name):
        path = folder / name
        if not path.is_file():
            return _refusal("EntryNotFound", commit)
        return (
            200,
            {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"},
            path.read_bytes(),
        )


def _etag(path):
    return hashlib.sha1(path.read_bytes()).hexdigest()


def _json(value, commit):
    return 200, {"Content-Type": "application/json", "X-Repo-Commit": commit}, json.dumps(value).encode()


def _refusal(code, commit=None):
    headers = {
        "X-Error-Code": code,
        "X-Error-Message": f"{code}, says the test's hub",
        "Content-Type": "text/plain",
    }
    return REPOSITORY[code], headers | ({} if commit is None else {"X-Repo-Commit": commit}), b"refused"
