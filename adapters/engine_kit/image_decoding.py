"""Decodes images for engines, with Pillow: first frame, upright, without transparency."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from corral.core.errors import InvalidRequest, Unsupported
from corral.core.requests.media import MOST_PIXELS, check_media
from corral.core.wording.pip_lines import pip_line

__all__ = ("decoded_image",)

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")


def decoded_image(data: bytes) -> npt.NDArray[np.uint8]:
    """The pixels, of shape (height, width, 3), as red, green and blue. Transparent parts are white, as on a page.

    Raises `InvalidRequest` for what is no image or too large, before it is decoded, and `Unsupported` without Pillow.
    """
    check_media([data])
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise Unsupported("images: the package pillow is not installed", pip_line("pillow>=11")) from error
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise InvalidRequest(f"an image has {opened.width} x {opened.height} pixels; at most {MOST_PIXELS}")
            opened.load()
            return _red_green_blue(ImageOps.exif_transpose(opened))
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error, Image.DecompressionBombError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"an image cannot be decoded: {error}", "check the file, or save it again") from error


def _red_green_blue(image: Any) -> npt.NDArray[np.uint8]:
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # 16 bits of grey
        grey = np.clip(np.asarray(image, np.float32) / 256, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.has_transparency_data:
        whole = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole)
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8))
