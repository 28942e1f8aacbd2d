"""A Hub on the loopback interface: the routes that huggingface_hub uses to publish and to fetch, nothing else.

Repositories live in memory: a list of commits, each a mapping from path to content. ``faults`` lets a test break a
route once or for good.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Repository:
    def __init__(self, *, private):
        self.private = private
        self.commits = [("0" * 40, {})]
        self.branches = {"main": 0}

    def at(self, revision):
        """The commit's hash and files, or nothing."""
        if revision in self.branches:
            return self.commits[self.branches[revision]]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    def commit(self, branch, files):
        digest = hashlib.sha1(json.dumps(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in files.items())).encode())
        digest.update(str(len(self.commits)).encode())
        self.commits.append((digest.hexdigest(), files))
        self.branches[branch] = len(self.commits) - 1
        return digest.hexdigest()


class Hub(ThreadingHTTPServer):
    """``token`` is the one that may write and see what is private."""

    token = "hf_loopback"

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories = {}
        self.faults = {}
        self.requests = []
        self.meeting = None  # a threading.Barrier at which clients that ask for a revision wait for each other
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append(("POST", self.path))
        if self.path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            return self.refuse(401, "RepoNotFound")
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/?]+)", self.path.split("?")[0])
        if match is None:
            return self.refuse(404, "Unknown")
        name, what, revision = match.groups()
        repository = self.server.repositories[name]
        if what == "branch":
            if revision in repository.branches:
                return self.refuse(409, "Conflict")
            repository.branches[revision] = repository.branches["main"]
            return self.answer({})
        if what == "preupload":
            return self.preupload(json.loads(body), repository.at(revision)[1])
        if self.fault("commit"):
            return self.refuse(500, "Broken")
        return self.take(name, repository, revision, body)

    def create(self, wanted):
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.server.repositories:
            return self.refuse(409, "Conflict", {"url": f"{self.server.url}/{name}"})
        hidden = wanted.get("private") or wanted.get("visibility") == "private"
        self.server.repositories[name] = Repository(private=bool(hidden))
        return self.answer({"url": f"{self.server.url}/{name}", "name": name, "id": name})

    def preupload(self, wanted, files):
        found = []
        for file in wanted["files"]:
            known = files.get(file["path"])
            entry = {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
            if known is not None:
                entry["oid"] = blob_id(known)
            found.append(entry)
        return self.answer({"files": found})

    def take(self, name, repository, revision, body):
        files = dict(repository.at(revision)[1])
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"], None)
        digest = repository.commit(revision, files)
        url = f"{self.server.url}/{name}/commit/{digest}"
        return self.answer({"success": True, "commitOid": digest, "commitUrl": url, "hookOutput": ""})

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.requests.append((self.command, self.path))
        path = self.path.split("?")[0]
        if path == "/api/whoami-v2":
            return self.answer({"name": "org", "type": "user", "auth": {"type": "access_token"}})
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/.*)?)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        name = (api or file).group(1) if api or file else None
        repository = self.server.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        if repository is None or (repository.private and not known):
            return self.refuse(404 if known else 401, "RepoNotFound")
        commit = repository.at((api.group(3) or "main") if api else file.group(2))
        if commit is None:
            return self.refuse(404, "RevisionNotFound")
        digest, files = commit
        if api and api.group(2) == "revision" and self.server.meeting is not None:
            self.server.meeting.wait(timeout=100)
        if file:
            return self.serve(digest, files.get(file.group(3)))
        if api.group(2) == "tree":
            tree = [{"type": "file", "path": p, "size": len(c), "oid": blob_id(c)} for p, c in sorted(files.items())]
            return self.answer(tree)
        siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(files.items())]
        return self.answer({"id": name, "sha": digest, "siblings": siblings, "private": repository.private})

    def serve(self, digest, content):
        if content is None:
            return self.refuse(404, "EntryNotFound")
        cut = self.command == "GET" and self.fault("download")
        first = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            first = int(asked.group(1))
        part = content[first:]
        self.send_response(206 if first else 200)
        self.send_header("ETag", f'"{blob_id(content)}"')
        self.send_header("X-Repo-Commit", digest)
        self.send_header("Content-Length", str(len(part)))
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part[: len(part) // 2] if cut else part)
            if cut:
                self.close_connection = True
        return None

    def fault(self, name):
        """Whether a fault of this name is due; counts it down."""
        left = self.server.faults.get(name, 0)
        self.server.faults[name] = max(0, left - 1)
        return left > 0

    def answer(self, values, status=200):
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, values=None):
        body = json.dumps(values or {"error": code}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def blob_id(content):
    """Git's hash of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
