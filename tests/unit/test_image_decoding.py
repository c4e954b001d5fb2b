"""Images become pixels: every mode, upright, without transparency."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from corral.adapters.engine_kit.image_decoding import decoded_image
from corral.core.errors import InvalidRequest
from corral.plugins.testing.images import png_bytes


def written(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "format"),
    [
        ("RGB", "PNG"), ("RGB", "WEBP"), ("RGB", "BMP"), ("RGBA", "PNG"), ("P", "GIF"), ("P", "PNG"),
        ("CMYK", "JPEG"), ("RGB", "JPEG"),
    ],
)  # fmt: skip
def test_every_mode(mode: str, format: str) -> None:
    """A reddish image is reddish, whatever its file is like."""
    data = written(Image.new("RGB", (6, 4), (204, 51, 51)).convert(mode), format)
    pixels = decoded_image(data)
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (204, 51, 51)).max() < 30


def test_grey_of_sixteen_bits() -> None:
    """It is scaled, not cut off."""
    grey = Image.fromarray(np.full((2, 2), 0x8000, np.uint16))
    assert decoded_image(written(grey, "PNG")).max() == 0x80
    assert decoded_image(written(Image.new("L", (2, 2), 90), "PNG")).tolist() == [[[90] * 3] * 2] * 2


def test_photos_are_upright_and_see_through_parts_white() -> None:
    """As people see them."""
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    assert decoded_image(written(Image.new("RGB", (8, 2)), "JPEG", exif=exif)).shape == (8, 2, 3)
    clear = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    assert decoded_image(written(clear, "PNG")).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_only_the_first_frame() -> None:
    """Of an animation."""
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    data = written(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decoded_image(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("damage", [b"\0" * 8, b"\xff" * 8])
def test_what_cannot_be_decoded(damage: bytes) -> None:
    """The error says why."""
    data = bytearray(png_bytes(64, 64, (1, 2, 3)))
    data[41:49] = damage
    with pytest.raises(InvalidRequest, match="cannot be decoded"):
        decoded_image(bytes(data))
