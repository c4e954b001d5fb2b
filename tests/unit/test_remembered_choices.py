"""Choices of engines are remembered for as long as the same question must have the same answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corral.adapters.system.installed_packages import InstalledPackages
from corral.core.errors import InvalidOption
from corral.core.models.digests import digest_of
from corral.core.models.model import StoredModel
from corral.core.models.names import parse_name
from corral.core.models.view import ModelView
from corral.core.scheduling.engine_choice import EngineChooser
from corral.core.scheduling.remembered_choices import RememberedChoices
from corral.core.specs.engines import EngineSpec, Match
from corral.core.specs.installation import HasRequirements

RECORD = StoredModel(name=parse_name("toy"), digest=digest_of(b""), size_bytes=1, modified_at=0.0)
VIEW = ModelView(record=RECORD, metadata=None, capabilities=())


class Options(msgspec.Struct, frozen=True, kw_only=True):
    num_ctx: int = 1
    tags: tuple[str, ...] = ()


class Asked:
    """An engine that counts how often it is asked."""

    def __init__(self, name: str, score: int, **fields: Any) -> None:
        self.count = 0
        self._score = score
        self.spec = EngineSpec(
            name=name,
            summary="",
            form="step",
            load="nowhere:load",
            match=self._match,
            estimate=lambda *_: {},
            load_options=Options,
            **fields,
        )

    def _match(self, *_: object) -> Match:
        self.count += 1
        return Match(score=self._score, reason="")


class Missing(InstalledPackages):
    """Everything that needs the module `later` is missing until it is installed."""

    installed = False

    def missing(self, spec: HasRequirements) -> str:
        return "later is not installed" if spec.module == "later" and not self.installed else ""


def test_the_same_question_is_asked_once() -> None:
    """Another model, engine, task or load option is another question."""
    one = Asked("one", 5)
    choices = RememberedChoices(EngineChooser([one.spec], installation=Missing()))
    first = choices.choose(VIEW, None, ("chat",), {"num_ctx": 5})
    assert choices.choose(VIEW, None, ("chat",), {"num_ctx": 5}) is first
    assert (one.count, first.options) == (1, Options(num_ctx=5))
    replaced = msgspec.structs.replace(VIEW, record=msgspec.structs.replace(RECORD, digest=digest_of(b"new")))
    choices.choose(replaced, None, ("chat",), {"num_ctx": 5})
    choices.choose(VIEW, "one", ("chat",), {"num_ctx": 5})
    choices.choose(VIEW, None, (), {"num_ctx": 5})
    assert choices.choose(VIEW, None, ("chat",), {"num_ctx": 6}).options == Options(num_ctx=6)
    assert one.count == 5


def test_options_that_cannot_be_keys() -> None:
    """Options are validated each time, and the answer is the same."""
    choices = RememberedChoices(EngineChooser([Asked("one", 5).spec], installation=Missing()))
    for _ in range(2):
        assert choices.choose(VIEW, None, (), {"tags": ["a"]}).options == Options(tags=("a",))


def test_errors_are_not_remembered() -> None:
    """Errors in a request are found each time."""
    one = Asked("one", 5)
    choices = RememberedChoices(EngineChooser([one.spec], installation=Missing()))
    for _ in range(2):
        with pytest.raises(InvalidOption):
            choices.choose(VIEW, None, (), {"num_ctx": "many"})
    assert one.count == 2


def test_a_better_engine_that_is_installed_meanwhile() -> None:
    """While an engine that suits the model better is not installed, the choice is made again each time."""
    installation = Missing()
    better, other = Asked("better", 9, module="later"), Asked("other", 5)
    choices = RememberedChoices(EngineChooser([better.spec, other.spec], installation=installation))
    assert choices.choose(VIEW, None, (), {}).spec.name == "other"
    installation.installed = True
    assert choices.choose(VIEW, None, (), {}).spec.name == "better"
