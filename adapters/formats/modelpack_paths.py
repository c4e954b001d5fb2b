"""What the files of a ModelPack are, by their media types and paths, and the paths of files that have none yet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from msgspec.structs import replace

from corral.core.errors import Unsupported
from corral.core.models.model import FileRole, Model, ModelFile

__all__ = ("GO_TEMPLATE", "MESSAGES", "PARAMS", "SYSTEM", "TEMPLATE", "files_with_paths", "layer_kind", "role_of")

TEMPLATE, GO_TEMPLATE, SYSTEM = "chat_template.jinja", "chat_template.gotmpl", "system.txt"
PARAMS, MESSAGES = "params.json", "messages.json"
"""The files for what the config has no place for. `GO_TEMPLATE` is of models that come from Ollama."""

_TEXT_FILES: Mapping[str, FileRole] = {
    TEMPLATE: "template",
    GO_TEMPLATE: "template",
    SYSTEM: "system",
    PARAMS: "params",
    MESSAGES: "messages",
}
_KINDS: Mapping[FileRole, str] = {
    "weights": "weight",
    "projector": "weight",
    "adapter": "weight",
    "draft": "weight",
    "license": "doc",
    "other": "doc",
}
_STEMS: Mapping[FileRole, str] = {"weights": "model", "projector": "mmproj", "adapter": "adapter", "draft": "draft"}
_WITH_WEIGHTS: tuple[FileRole, ...] = ("projector", "adapter", "draft")
_ADAPTER_SUFFIX = ".onnx_adapter"
_LICENSE_STEMS = ("license", "licence", "copying")


def role_of(kind: str, path: str) -> FileRole:
    """The role of a file; `kind` is the middle of its media type, such as ``weight.config``."""
    name = PurePosixPath(path).name.lower()
    if kind == "weight":
        if name.endswith(_ADAPTER_SUFFIX):
            return "adapter"
        begun = [role for role in _WITH_WEIGHTS if name.endswith(".gguf") and name.startswith(_STEMS[role])]
        return begun[0] if begun else "weights"
    if kind == "weight.config":
        return _TEXT_FILES.get(path, "config")
    return "license" if kind == "doc" and name.partition(".")[0] in _LICENSE_STEMS else "other"


def layer_kind(file: ModelFile) -> str:
    """The `kind` under which a file is written."""
    return _KINDS.get(file.role, "weight.config")


def files_with_paths(model: Model) -> Sequence[ModelFile]:
    """The model's files. GGUF files without paths, as in models from Ollama, get some: ``model.gguf``, ``mmproj.gguf``.

    Raises `Unsupported` for any other file without a path.
    """
    seen = Counter[FileRole]()
    files = []
    for file in model.files:
        if file.path is None:
            stem = _STEMS.get(file.role) if model.format == "gguf" else None
            if stem is None:
                raise Unsupported(f"a ModelPack manifest needs a path for the file {file.digest} ({file.role})")
            seen[file.role] += 1
            number = f"-{seen[file.role]}" if seen[file.role] > 1 else ""
            file = replace(file, path=f"{stem}{number}.gguf")
        files.append(file)
    return files
