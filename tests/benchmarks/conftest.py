"""The benchmarks are run from the repository and not installed, so their tests put its root on the path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
