"""The library: `AsyncCorral`, and `Corral`, the same for blocking code."""

from corral.api.library.asynchronous import AsyncCorral
from corral.api.library.blocking import Corral
from corral.api.library.streams import Stream

__all__ = ("AsyncCorral", "Corral", "Stream")
