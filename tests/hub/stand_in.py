"""A stand-in for the Hub on this machine: its protocol as the client speaks it, over real HTTP, in memory."""

import base64
import hashlib
import http.server
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def add_commit(self, branch: str, files: dict[str, bytes]) -> str:
        content = "".join(f"{name}{sha256(data)}" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{branch}{len(self.commits)}{content}".encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit

    def find(self, revision: str) -> str | None:
        commit = self.branches.get(revision, revision)
        return commit if commit in self.commits else None


@dataclass
class StandIn:
    """What the server holds, what it was asked, and what is to go wrong."""

    url: str = ""
    token: str = "hf_write"
    repositories: dict[str, Repository] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)
    """Method, path and range of each request."""
    cuts: dict[str, int] = field(default_factory=dict)
    """How many times the connection is to break in the middle of a file, by its name."""
    spoiled: set[str] = field(default_factory=set)
    """Files of which a byte is changed on the way."""
    forbids: bool = False
    """Whether tokens may write nothing."""
    asks_for_consent: bool = False
    is_broken: bool = False
    before_answer: Callable[[int], None] = lambda _: None
    """Called before each request is answered, with how many were answered before."""

    def put(self, name: str, files: dict[str, bytes], *, branch: str = "main") -> str:
        """Put files into a repository, as others would have."""
        return self.repositories.setdefault(name, Repository()).add_commit(branch, files)

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[name]
        return repository.commits[repository.find(revision)]

    def fetched(self) -> list[str]:
        """Give the names of the files whose content was asked for."""
        return [path.rpartition("/")[2] for method, path, _ in self.asked if method == "GET" and "/resolve/" in path]


class Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def do_POST(self):
        self._answer()

    def do_PUT(self):
        self._answer()

    def _answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.before_answer(len(self.hub.asked))
        self.hub.asked.append((self.command, path, self.headers.get("Range")))
        if self.hub.is_broken:
            return self._refuse(503, "", "out of order")
        for method, pattern, answer in ROUTES:
            if (found := re.fullmatch(pattern, path)) and self.command in method:
                return answer(self, *found.groups())
        return self._refuse(404, "", f"no such page: {self.command} {path}")

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, content: object) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self._send(status, json.dumps({"error": message}).encode(), {"Content-Type": "application/json"} | headers)

    @property
    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {self.hub.token}"

    def _find(self, name: str, revision: str = "main") -> tuple[Repository, str] | None:
        """Give a repository and a commit, or answer that there is none."""
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not self._may_write):
            # The Hub says the same of both.
            self._refuse(401 if not self._may_write else 404, "RepoNotFound", "Repository not found")
            return None
        if self.hub.asks_for_consent:
            self._refuse(403, "GatedRepo", "Access to the model is restricted")
            return None
        commit = repository.find(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _refuses_to_write(self) -> bool:
        if not self._may_write:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif self.hub.forbids:
            self._refuse(403, "", "You don't have the rights")
        return not self._may_write or self.hub.forbids

    def create_repository(self) -> None:
        if self._refuses_to_write():
            return
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        is_private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.hub.repositories[name] = Repository(private=is_private)
        self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
        self._send_json({"url": f"{self.hub.url}/{name}", "name": name})

    def create_branch(self, name: str, branch: str) -> None:
        if self._refuses_to_write():
            return
        repository = self.hub.repositories[name]
        if branch in repository.branches:
            self._refuse(409, "", "Reference already exists")
            return
        repository.branches[branch] = repository.branches["main"]
        self._send_json({})

    def validate_card(self) -> None:
        content = json.loads(self.body)["content"]
        if "license: " in content and "no-such" not in content:
            self._send_json({"errors": [], "warnings": []})
        else:
            self._send(400, json.dumps({"errors": [{"message": "no such license"}], "warnings": []}).encode())

    def tell(self, name: str, revision: str | None = None) -> None:
        if found := self._find(name, revision or "main"):
            repository, commit = found
            files = repository.commits[commit]
            self._send_json(
                {
                    "_id": "1", "id": name, "modelId": name, "sha": commit, "private": repository.private,
                    "siblings": [{"rfilename": file} for file in sorted(files)], "tags": [], "downloads": 0, "likes": 0,
                }
            )  # fmt: skip

    def list_files(self, name: str, revision: str) -> None:
        if found := self._find(name, revision):
            repository, commit = found
            entries = []
            for file, content in sorted(repository.commits[commit].items()):
                entry = {"type": "file", "path": file, "size": len(content), "oid": git_hash(content)}
                if file.endswith(".safetensors"):
                    entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self._send_json(entries)

    def list_branches(self, name: str) -> None:
        if found := self._find(name):
            branches = [
                {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": commit}
                for branch, commit in found[0].branches.items()
            ]
            self._send_json({"branches": branches, "converts": [], "tags": []})

    def resolve(self, name: str, revision: str, file: str) -> None:
        if not (found := self._find(name, revision)):
            return
        repository, commit = found
        content = repository.commits[commit].get(file)
        if content is None:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        is_large = file.endswith(".safetensors")
        etag = sha256(content) if is_large else git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if is_large:
            headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        if file in self.hub.spoiled:
            content = content[:-1] + bytes([content[-1] ^ 1])
        self._send_part(file, content, headers)

    def _send_part(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        begin, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            begin, status = int(asked[1]), 206
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if self.command == "GET" and self.hub.cuts.get(file, 0) > 0:
            self.hub.cuts[file] -= 1
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content) - begin)}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[begin : begin + (len(content) - begin) // 2])
            self.close_connection = True
            return
        self._send(status, content[begin:], headers)

    def before_upload(self, name: str, revision: str) -> None:
        if self._refuses_to_write() or not self._find(name, revision):
            return
        files = [file["path"] for file in json.loads(self.body)["files"]]
        modes = {file: "lfs" if file.endswith(".safetensors") else "regular" for file in files}
        self._send_json(
            {"files": [{"path": file, "uploadMode": mode, "shouldIgnore": False} for file, mode in modes.items()]}
        )

    def plan_upload(self, name: str) -> None:
        if self._refuses_to_write():
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            upload = {"upload": {"href": f"{self.hub.url}/storage/{wanted['oid']}"}}
            known = {} if wanted["oid"] in self.hub.uploads else {"actions": upload}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], **known})
        self._send_json({"transfer": "basic", "objects": objects})

    def store(self, digest: str) -> None:
        if sha256(self.body) != digest:
            self._refuse(400, "", "not the content that was announced")
            return
        self.hub.uploads[digest] = self.body
        self._send_json({})

    def commit(self, name: str, branch: str) -> None:
        if self._refuses_to_write() or not (found := self._find(name, branch)):
            return
        repository, parent = found
        lines = [json.loads(line) for line in self.body.splitlines()]
        expected = lines[0]["value"].get("parentCommit")
        if expected not in (None, parent):
            self._refuse(412, "", "A commit has happened since")
            return
        files = dict(repository.commits[parent])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            else:
                del files[value["path"]]
        commit = repository.add_commit(branch, files)
        self._send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})


NAME = r"([\w.-]+/[\w.-]+)"
ROUTES = [
    ("POST", r"/api/repos/create", Answers.create_repository),
    ("POST", r"/api/validate-yaml", Answers.validate_card),
    ("POST", rf"/api/models/{NAME}/branch/(.+)", Answers.create_branch),
    ("POST", rf"/api/models/{NAME}/preupload/(.+)", Answers.before_upload),
    ("POST", rf"/api/models/{NAME}/commit/(.+)", Answers.commit),
    ("POST", rf"/{NAME}\.git/info/lfs/objects/batch", Answers.plan_upload),
    ("PUT", r"/storage/([0-9a-f]{64})", Answers.store),
    ("GET", rf"/api/models/{NAME}/refs", Answers.list_branches),
    ("GET", rf"/api/models/{NAME}/tree/([^/]+)", Answers.list_files),
    ("GET", rf"/api/models/{NAME}/revision/(.+)", Answers.tell),
    ("GET", rf"/api/models/{NAME}", Answers.tell),
    (("GET", "HEAD"), rf"/{NAME}/resolve/([^/]+)/(.+)", Answers.resolve),
]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


def serve(hub: StandIn) -> http.server.ThreadingHTTPServer:
    """Begin to answer, in a thread of its own."""
    handler = type("AnswersOfOne", (Answers,), {"hub": hub})
    server = _Server(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return server
