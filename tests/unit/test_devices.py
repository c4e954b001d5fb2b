"""Devices are listed in separate processes: the result, and what happens if one does not answer."""

from __future__ import annotations

import asyncio
import os

import msgspec
import pytest

from corral.adapters.runners.jobs import ProcessJobs
from corral.core.scheduling.device_probe import DeviceProbe
from corral.core.specs.engines import Device, EngineSpec
from corral.plugins.testing.conversion import ENGINE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="jobs need POSIX systems")


def engine(name: str, devices: str | None) -> EngineSpec:
    return msgspec.structs.replace(ENGINE, name=name, devices=devices)


def test_devices_of_engines() -> None:
    """Engines that can list their devices do; one that fails says why."""
    engines = [
        ENGINE,
        engine("broken", "corral.plugins.testing.jobs:unsendable"),
        engine("silent", None),
        engine("unasked", ENGINE.devices),
    ]

    async def check() -> None:
        probe = DeviceProbe(engines=engines, jobs=ProcessJobs(), timeout_s=60)
        found = await probe.devices(["stamped", "broken", "silent"])
        assert found.keys() == {"stamped", "broken"}
        abacus = Device(kind="abacus", name="Abacus of ten rods", total_bytes=10_000, free_bytes=5_000)
        assert found["stamped"] == (abacus,)
        assert "unsendable" in str(found["broken"])

    asyncio.run(check())


def test_an_engine_that_does_not_answer() -> None:
    """An engine that does not answer is stopped after the limit, and reported as such."""
    probe = DeviceProbe(engines=[engine("hanging", "signal:pause")], jobs=ProcessJobs(), timeout_s=0.5)
    assert asyncio.run(probe.devices(["hanging"])) == {"hanging": "no answer within 0.5 s"}


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
