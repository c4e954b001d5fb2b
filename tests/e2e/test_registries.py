"""A model goes to a registry and comes back: the same digest, and it answers as before."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from corral import AsyncCorral
from corral.core.errors import ModelNotFound, NotFound, SourceError
from corral.plugins.testing.fake_registry import FakeRegistry
from corral.plugins.testing.fake_registry_connection import FakeConnection
from corral.plugins.testing.gguf import TensorEntry, gguf_bytes
from tests.conftest import REGISTRY_LOGIN

PROMPT = "The capital of France is"


def login(path: Path, host: str) -> dict[str, object]:
    """Settings with a login for this registry, in a file of Corral's own."""
    path.write_text(json.dumps({"auths": {host: dict(zip(("username", "password"), REGISTRY_LOGIN, strict=True))}}))
    return {
        "registries.oci.credentials_file": str(path),
        "registries.oci.ollama_key": str(path.with_name("id_ed25519")),
        "registries.oci.upload_chunk_bytes": 1 << 20,
    }


@pytest.mark.native
def test_smollm2_on_a_real_registry(smollm2: Path, guarded_registry: str, tmp_path: Path) -> None:
    """Behind a login: pushed, deleted, pulled; same digest, same text."""
    settings = login(tmp_path / "logins.json", guarded_registry)

    async def work() -> None:
        async with AsyncCorral(models=tmp_path / "models", config="", settings=settings) as corral:
            reference = f"oci://{guarded_registry}/models/smollm2:q4_1"
            before = await corral.import_model(smollm2, name="small")
            answer = await corral.generate("small", PROMPT, options={"temperature": 0, "num_predict": 5})
            await corral.unload("small")
            assert await corral.push("small", reference) == before.digest
            await corral.delete("small")
            with pytest.raises(ModelNotFound):
                await corral.show("small")
            after = await corral.pull(reference, name="small")
            assert after.digest == before.digest
            again = await corral.generate("small", PROMPT, options={"temperature": 0, "num_predict": 5})
            assert again.text == answer.text

    asyncio.run(work())


def test_a_login_that_a_real_registry_refuses(guarded_registry: str, tmp_path: Path) -> None:
    """Neither pull nor push; the error says what to do."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes())
    settings = login(tmp_path / "logins.json", "another.example")

    async def work() -> None:
        async with AsyncCorral(models=tmp_path / "models", config="", settings=settings) as corral:
            await corral.import_model(file, name="small")
            for job in (
                corral.push("small", f"oci://{guarded_registry}/x"),
                corral.pull(f"oci://{guarded_registry}/x"),
            ):
                with pytest.raises(SourceError, match="unauthorized: access denied") as caught:
                    await job
                assert caught.value.remedy == f"corral login {guarded_registry}"

    asyncio.run(work())


def breaks(after: int) -> Callable[[FakeConnection], None]:
    def do(request: FakeConnection) -> None:
        request.state.expire_tokens()
        request.cut_after = after
        request.answer_as_usual()

    return do


def test_a_registry_with_every_fault(tmp_path: Path) -> None:
    """Tokens that expire, blobs on another host that break off, lost pieces: the model arrives all the same."""
    file = tmp_path / "small.gguf"
    file.write_bytes(gguf_bytes(tensors=(TensorEntry("w", (1 << 20,), 0, 1 << 22),)))
    with FakeRegistry() as fake, FakeRegistry() as storage:
        settings = login(tmp_path / "logins.json", fake.host)
        fake.demands, fake.relative_locations, fake.keeps_addresses = "token", True, True
        fake.logins[REGISTRY_LOGIN[0]] = REGISTRY_LOGIN[1]
        fake.blobs_at = storage.url.replace("127.0.0.1", "localhost")
        storage.repositories = fake.repositories
        fake.fault("PATCH", "/uploads/", lambda request: request.hang_up())
        storage.fault("GET", "/storage/", breaks(100_000), times=3)

        async def work() -> None:
            async with AsyncCorral(models=tmp_path / "models", config="", settings=settings) as corral:
                reference = f"oci://{fake.host}/deep/down/small:1"
                before = await corral.import_model(file, name="small")
                await corral.push("small", reference)
                await corral.delete("small")
                assert (await corral.pull(reference)).digest == before.digest
                with pytest.raises(NotFound):
                    await corral.pull(f"oci://{fake.host}/deep/down/other")

        asyncio.run(work())
        assert not [request for request in storage.seen if "authorization" in request.headers]
        assert len(storage.requests("GET")) >= 4
