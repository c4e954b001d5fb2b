"""How a `FakeRegistry` answers: the OCI distribution protocol, and a storage beside the registry."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from urllib.parse import parse_qs, urlsplit

from corral.plugins.testing.fake_registry_logins import GuardedConnection
from corral.plugins.testing.fake_registry_state import FakeRepository, FakeUpload

__all__ = ("RegistryHandler",)

_DIGESTS = re.compile(rb"sha256:[0-9a-f]{64}")
_ROUTES = re.compile(r"/v2/(?P<name>.+?)/(?P<kind>manifests|blobs/uploads|blobs|tags)/(?P<rest>.*)")


class RegistryHandler(GuardedConnection):
    def answer_as_usual(self) -> None:
        path = urlsplit(self.path).path
        self.query = {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}
        if path == "/token":
            self.grant_token()
        elif path.startswith("/storage/"):
            self._storage(path)
        elif not path.startswith("/v2/"):
            self.error(404, "NOT_FOUND")
        else:
            match = _ROUTES.fullmatch(path)
            if self.admits(path, match["name"] if match else None):
                self._route(path)

    def _route(self, path: str) -> None:
        if path == "/v2/":
            self.reply(200, b"{}")
            return
        if path == "/v2/_catalog" and self.state.lists:
            self._page("repositories", sorted(name for name, kept in self.state.repositories.items() if kept.manifests))
            return
        match = _ROUTES.fullmatch(path)
        if match is None:
            self.error(404, "NOT_FOUND")
            return
        name, rest = match["name"], match["rest"]
        repository = self.state.repositories[name]
        if match["kind"] == "tags":
            if repository.tags:
                self._page("tags", sorted(repository.tags))
            else:
                self.error(404, "NAME_UNKNOWN")
        elif match["kind"] == "manifests":
            self._manifest(repository, rest)
        elif match["kind"] == "blobs":
            self._blob(repository, rest)
        else:
            self._upload(name, repository, rest)

    def _page(self, what: str, names: list[str]) -> None:
        """Pages of two, to have several of them."""
        last = self.query.get("last", "")
        rest = [name for name in names if name > last]
        headers = {}
        if len(rest) > 2:
            path = urlsplit(self.path).path
            headers["Link"] = f'<{path}?n=2&last={rest[1]}>; rel="next"'
        self.reply(200, json.dumps({what: rest[:2]}).encode(), headers)

    def _manifest(self, repository: FakeRepository, wanted: str) -> None:
        digest = repository.tags.get(wanted, wanted)
        if self.command == "PUT":
            missing = [found for found in _DIGESTS.findall(self.body) if found.decode() not in repository.blobs]
            if missing and b'"manifests"' not in self.body:
                self.error(404, "MANIFEST_BLOB_UNKNOWN", f"blob unknown to registry: {missing[0].decode()}")
                return
            digest = f"sha256:{hashlib.sha256(self.body).hexdigest()}"
            repository.manifests[digest] = (self.body, self.headers.get("content-type", ""))
            if not wanted.startswith("sha256:"):
                repository.tags[wanted] = digest
            self.reply(201, headers={"Docker-Content-Digest": digest})
        elif digest not in repository.manifests:
            self.error(404, "MANIFEST_UNKNOWN")
        elif self.command == "DELETE":
            if not self.state.deletes or not wanted.startswith("sha256:"):
                self.error(405, "UNSUPPORTED")
                return
            del repository.manifests[digest]
            repository.tags = {tag: to for tag, to in repository.tags.items() if to != digest}
            self.reply(202)
        else:
            data, media_type = repository.manifests[digest]
            if media_type not in self.headers.get("accept", ""):
                self.error(404, "MANIFEST_UNKNOWN", "the accept header does not support this manifest")
                return
            headers = {"Docker-Content-Digest": digest, "Content-Type": media_type}
            self.reply(200, data, headers | ({"Content-Length": str(len(data))} if self.command == "HEAD" else {}))

    def _blob(self, repository: FakeRepository, digest: str) -> None:
        if digest not in repository.blobs:
            self.error(404, "BLOB_UNKNOWN")
        elif self.command == "DELETE":
            if self.state.deletes:
                del repository.blobs[digest]
                self.reply(202)
            else:
                self.error(405, "UNSUPPORTED")
        elif self.command == "GET" and self.state.blobs_at is not None:
            self.reply(307, headers={"Location": f"{self.state.blobs_at}/storage/{digest}?signed={uuid.uuid4().hex}"})
        else:
            self.send_data(repository.blobs[digest])

    def send_data(self, data: bytes) -> None:
        """A blob, or the range of it that the request names."""
        stated = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")) if self.state.knows_ranges else None
        if self.command == "HEAD":
            self.reply(200, headers={"Content-Length": str(len(data))})
        elif stated is None:
            self.reply(200, data)
        elif int(stated[1]) >= len(data):
            self.reply(416, headers={"Content-Range": f"bytes */{len(data)}"})
        else:
            part = data[int(stated[1]) : int(stated[2]) + 1 if stated[2] else None]
            first = int(stated[1])
            self.reply(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    def _upload(self, name: str, repository: FakeRepository, session: str) -> None:
        if self.command == "POST":
            self._start(name, repository)
            return
        upload = self.state.uploads.get(session)
        is_old = upload is not None and self.query.get("version") != str(upload.version)
        if upload is None or (is_old and not self.state.keeps_addresses):
            self.error(404, "BLOB_UPLOAD_UNKNOWN")
        elif self.command == "DELETE":
            del self.state.uploads[session]
            self.reply(204)
        elif self.command == "GET":
            self._go_on(204, name, session, upload)
        elif self.command == "PATCH":
            self._piece(name, session, upload)
        else:
            self._finish(repository, session, upload)

    def _start(self, name: str, repository: FakeRepository) -> None:
        mounted = self.query.get("mount", "")
        source = self.state.repositories[self.query["from"]].blobs if "from" in self.query else {}
        if mounted and self.state.mounts and mounted in source:
            repository.blobs[mounted] = source[mounted]
            self.reply(201, headers={"Docker-Content-Digest": mounted})
            return
        session = uuid.uuid4().hex
        self.state.uploads[session] = upload = FakeUpload(data=bytearray())
        self._go_on(202, name, session, upload)

    def _piece(self, name: str, session: str, upload: FakeUpload) -> None:
        state = self.state
        if state.uploads_at is not None:
            upload.parts += 1
            upload.version += 1
            part = f"{state.uploads_at}/storage/{session}-{upload.parts}?signed=1"
            self.reply(307, headers={"Location": part, "Docker-Upload-Location": self._location(name, session, upload)})
            return
        first = int((self.headers.get("content-range") or f"{len(upload.data)}-").partition("-")[0])
        if not state.takes_pieces:
            self.error(405, "UNSUPPORTED")
        elif state.checks_pieces and first != len(upload.data):
            self._go_on(416, name, session, upload)
        else:
            upload.data += self.body
            upload.version += 1
            self._go_on(202, name, session, upload)

    def _go_on(self, status: int, name: str, session: str, upload: FakeUpload) -> None:
        headers = {
            "Location": self._location(name, session, upload),
            "Range": f"0-{max(0, len(upload.data) - 1)}",
            "Docker-Upload-UUID": session,
        }
        if self.state.least_piece_bytes:
            headers["OCI-Chunk-Min-Length"] = str(self.state.least_piece_bytes)
        self.reply(status, headers=headers)

    def _location(self, name: str, session: str, upload: FakeUpload) -> str:
        path = f"/v2/{name}/blobs/uploads/{session}?version={upload.version}"
        return path if self.state.relative_locations else f"{self.own_url}{path}"

    def _finish(self, repository: FakeRepository, session: str, upload: FakeUpload) -> None:
        parts = [self.state.stored_parts.get(f"{session}-{number}", b"") for number in range(1, upload.parts + 1)]
        if parts:
            checksums = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
            etag = f"{hashlib.md5(checksums, usedforsecurity=False).hexdigest()}-{len(parts)}"
            if self.query.get("etag") != etag:
                self.error(400, "BLOB_UPLOAD_INVALID", "another etag was expected")
                return
        data = bytes(upload.data) + b"".join(parts) + self.body
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest != self.query.get("digest"):
            self.error(400, "DIGEST_INVALID")
            return
        del self.state.uploads[session]
        repository.blobs[digest] = data
        self.reply(201, headers={"Docker-Content-Digest": digest})

    def _storage(self, path: str) -> None:
        """Where a registry sends its clients: it knows no login, only signed addresses."""
        key = path.removeprefix("/storage/")
        if self.headers.get("authorization"):
            self.error(400, "INVALID", "two kinds of authorization")
        elif "signed" not in self.query:
            self.error(403, "DENIED")
        elif self.command == "PUT":
            self.state.stored_parts[key] = self.body
            self.reply(200)
        else:
            found = next((kept.blobs[key] for kept in self.state.repositories.values() if key in kept.blobs), None)
            if found is None:
                self.error(404, "NOT_FOUND")
            else:
                self.send_data(found)
