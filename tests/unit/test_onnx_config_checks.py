"""Which settings of a ``genai_config.json`` may reach ONNX Runtime."""

from __future__ import annotations

import json
from typing import Any

import pytest

from corral.adapters.engines.onnx_genai.config_checks import check_config
from corral.core.errors import InvalidModelFile


def config(**decoder: Any) -> bytes:
    return json.dumps({"model": {"type": "llama", "decoder": {"filename": "model.onnx", **decoder}}}).encode()


def test_what_models_say() -> None:
    """The settings of published models are accepted."""
    check_config(
        config(
            session_options={
                "log_id": "onnxruntime-genai",
                "intra_op_num_threads": 4,
                "provider_options": [{"cuda": {"enable_cuda_graph": "0"}}, {"dml": {}}],
            },
            pipeline=[{"embeddings": {"filename": "onnx/embeddings.onnx"}}],
        )
    )


@pytest.mark.parametrize(
    "decoder",
    [
        {"session_options": {"custom_ops_library": "evil.so"}},
        {"session_options": {"enable_profiling": "/tmp/profile"}},
        {"session_options": {"ep.context_file_path": "/tmp/x"}},
        {"session_options": {"session.model_external_initializers_file_folder_path": "/"}},
        {"run_options": {"anything": "else"}},
        {"session_options": {"provider_options": [{"QNN": {"backend_path": "/tmp/evil.so"}}]}},
        {"provider_options": {"OpenVINO": {"cache_dir": "/tmp"}}},
        {"pipeline": [{"first": {"session_options": {"custom_ops_library": "evil.so"}}}]},
        {"custom_ops_library": "evil.so"},
    ],
)
def test_code_and_paths_do_not_come_with_a_model(decoder: dict[str, Any]) -> None:
    """The model is refused wherever such a setting appears in the file."""
    with pytest.raises(InvalidModelFile, match="is not allowed in a model"):
        check_config(config(**decoder))


@pytest.mark.parametrize("name", ["/etc/passwd", "../model.onnx", "a/../../b", "C:\\x", ""])
def test_files_lie_in_the_folder(name: str) -> None:
    """Every file name stays inside the model's own folder."""
    for data in (config(filename=name), config(pipeline=[{"x": {"filename": name}}]), config(adapter_filename=name)):
        with pytest.raises(InvalidModelFile, match="not a valid path for a model's file"):
            check_config(data)


def test_a_setting_that_hides_behind_its_twin() -> None:
    """A duplicate key is refused, because two readers may use different ones."""
    data = config(session_options={"custom_ops_library": "evil.so"})
    twice = data.replace(b"}}}}", b'}, "session_options": {}}}}')
    assert json.loads(data) != json.loads(twice)
    with pytest.raises(InvalidModelFile, match="twice"):
        check_config(twice)


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"[" * 100_000, b"{", b"5"])
def test_what_is_no_object(data: bytes) -> None:
    """It is malformed."""
    with pytest.raises(InvalidModelFile):
        check_config(data)
