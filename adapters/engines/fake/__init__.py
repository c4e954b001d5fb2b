"""An engine without weights, for tests and for trying things out."""

from corral.adapters.engines.fake.engine import SPEC, FakeEngine, FakeLoadOptions, load
from corral.adapters.engines.fake.tokenizer import FakeTokenizer

__all__ = ("SPEC", "FakeEngine", "FakeLoadOptions", "FakeTokenizer", "load")
