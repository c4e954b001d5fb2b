"""Devices are asked for in processes of their own: what they are, and what happens where one does not answer."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from corral.adapters.runners.jobs import ProcessJobs
from corral.core.devices import DeviceProbe
from corral.core.engines import Device, EngineSpec
from corral.plugins.testing.conversion import ENGINE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs need POSIX systems")


def engine(name: str, devices: str | None) -> EngineSpec:
    return msgspec.structs.replace(ENGINE, name=name, devices=devices)


def test_devices_of_engines() -> None:
    """Those asked for and able to tell answer; one that fails or hangs tells why, and keeps nobody else waiting."""
    engines = [
        ENGINE,
        engine("broken", "corral.plugins.testing.jobs:unsendable"),
        engine("hanging", "signal:pause"),
        engine("silent", None),
        engine("unasked", ENGINE.devices),
    ]

    async def check() -> None:
        probe = DeviceProbe(engines=engines, jobs=ProcessJobs(), timeout_s=5)
        found = await probe.devices(["stamped", "broken", "hanging", "silent"])
        assert found.keys() == {"stamped", "broken", "hanging"}
        abacus = Device(kind="abacus", name="Abacus of ten rods", total_bytes=10_000, free_bytes=5_000)
        assert found["stamped"] == (abacus,)
        assert "unsendable" in str(found["broken"])
        assert found["hanging"] == "no answer within 5 s"

    asyncio.run(check())


@pytest.mark.native
def test_llama_cpp_tells_its_devices() -> None:
    """The processor is always among them, with its memory."""
    from corral.adapters.engines.llama_cpp.spec import SPEC

    found = asyncio.run(DeviceProbe(engines=[SPEC], jobs=ProcessJobs(), timeout_s=60).devices(["llama-cpp"]))
    devices = found["llama-cpp"]
    assert isinstance(devices, tuple), devices
    assert devices[0].kind == "cpu"
    assert devices[0].total_bytes
    assert devices[0].free_bytes
