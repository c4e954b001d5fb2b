"""Prompts of models that fill in the middle of a text: the tokens around it, files beside it, and what fits of them.

The layout is llama-server's for ``/infill``: a model that knows repositories sees each file under its name
(https://arxiv.org/abs/2409.12186); others see the texts one after the other.
"""

from __future__ import annotations

import msgspec

from corral.core.generation.bare_tokens import bare_ids
from corral.core.ports.running import RunningModel
from corral.core.requests.calls import GenerateCall
from corral.core.requests.prompts import Prompt, TextPart, TokensPart
from corral.core.requests.requests import CompletionRequest

__all__ = ("fitting_insert", "insert_prompt")

_REPOSITORY, _FILE = "myproject\n", "filename\n"
_BETWEEN_FILES = "\n\n--- snippet ---\n\n"


def insert_prompt(call: GenerateCall, fim_ids: tuple[int, int, int], repository_ids: tuple[int, int] | None) -> Prompt:
    """The prompt whose answer belongs between the call's prompt and its suffix."""
    prefix, suffix, middle = (_token(token_id) for token_id in fim_ids)
    files: list[TextPart | TokensPart] = []
    if call.insert and repository_ids is not None:
        repository, separator = (_token(token_id) for token_id in repository_ids)
        files += [repository, TextPart(text=_REPOSITORY)]
        for file in call.files:
            files += [separator, TextPart(text=f"{file.name}\n"), TextPart(text=file.text)]
        files += [separator, TextPart(text=_FILE)]
    else:
        for file in call.files:
            files += [TextPart(text=_BETWEEN_FILES), TextPart(text=file.text)]
    return (*files, prefix, TextPart(text=call.prompt), suffix, TextPart(text=call.suffix), middle)


async def fitting_insert(request: CompletionRequest, model: RunningModel) -> CompletionRequest:
    """The request with as much of its prompt as leaves room for the answer: the text just before and just behind what
    is filled in, the former up to three quarters, and then the end of the files.
    """
    most = model.info.most_tokens(request.context.num_ctx)
    if most is None or "tokenize" not in model.info.features:
        return request
    *files, prefix, before, suffix, behind, middle = request.prompt
    [added] = await model.tokenize([(TextPart(text=""),)])
    answer = request.sampling.num_predict
    room = max(0, most - (most // 4 if answer is None else min(answer, most // 4)) - len(added) - 4)
    ids_before, ids_behind = await bare_ids(model, (before,)), await bare_ids(model, (behind,))
    ids_of_files = await bare_ids(model, tuple(files))
    if len(ids_before) + len(ids_behind) + len(ids_of_files) <= room:
        return request
    taken_behind = min(len(ids_behind), max(room // 4, room - len(ids_before)))
    taken_before = min(len(ids_before), room - taken_behind)
    taken_of_files = min(len(ids_of_files), room - taken_behind - taken_before)
    dropped = len(ids_before) + len(ids_behind) + len(ids_of_files) - taken_before - taken_behind - taken_of_files
    prompt = (
        TokensPart(ids=ids_of_files[len(ids_of_files) - taken_of_files :]),
        prefix,
        TokensPart(ids=ids_before[len(ids_before) - taken_before :]),
        suffix,
        TokensPart(ids=ids_behind[:taken_behind]),
        middle,
    )
    return msgspec.structs.replace(request, prompt=prompt, dropped_tokens=dropped)


def _token(token_id: int) -> TokensPart:
    return TokensPart(ids=(token_id,))
