"""An engine without weights, for tests and experiments."""

from corral.adapters.engines.fake.engine import FakeEngine
from corral.adapters.engines.fake.options import FakeLoadOptions
from corral.adapters.engines.fake.spec import SPEC, load
from corral.adapters.engines.fake.tokenizer import FakeTokenizer

__all__ = ("SPEC", "FakeEngine", "FakeLoadOptions", "FakeTokenizer", "load")
