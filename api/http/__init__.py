"""The HTTP server: one router per API family, over a `Runtime`. What authors of routes need is exported here."""

from __future__ import annotations

from corral.api.http.body import read_json
from corral.api.http.callers import caller_of
from corral.api.http.dialects import Dialect
from corral.api.http.errors import STATUSES, ApiError
from corral.api.http.go_json import Body

__all__ = ("STATUSES", "ApiError", "Body", "Dialect", "caller_of", "read_json")
