"""Takes from a model what belongs to the manifest that it was read from, so that another format can hold it."""

from __future__ import annotations

from msgspec.structs import replace

from corral.core.models.model import FileRole, Model, ModelFile, ModelMetadata

__all__ = ("portable",)

_WRITTEN_ANEW: tuple[FileRole, ...] = ("template", "system", "params", "messages", "license")
_WITH_WEIGHTS: tuple[FileRole, ...] = ("weights", "projector", "adapter", "draft")


def portable(model: Model, metadata: ModelMetadata | None) -> Model:
    """The same model, without media types, without the files of its texts, which are written anew, and without layers
    that no engine reads. A GGUF model in one file has no paths.

    A Jinja template that the weights have as well is left to them: `metadata` is what their header says.
    """
    one_file = model.format == "gguf" and len(model.files_of("weights")) == 1
    template = model.template
    if template is not None and metadata is not None and template.text == metadata.chat_template:
        template = None
    files = [_portable(file, one_file=one_file) for file in model.files if file.role not in (*_WRITTEN_ANEW, "other")]
    return replace(model, files=tuple(files), template=template)


def _portable(file: ModelFile, *, one_file: bool) -> ModelFile:
    path = None if one_file and file.role in _WITH_WEIGHTS else file.path
    return replace(file, media_type="", path=path)
