"""Images before anything is loaded: what is recognised, what is refused, and where they stand in prompts."""

from __future__ import annotations

import io
import struct

import pytest
from PIL import Image

from corral.adapters.templates.go.chat_format import GoFormat
from corral.adapters.templates.jinja import JinjaFormat
from corral.core.errors import InvalidRequest
from corral.core.generation.assembling import raw_prompt
from corral.core.generation.plain_format import PlainFormat
from corral.core.requests.control_tokens import ControlTokens
from corral.core.requests.image_headers import read_image_header
from corral.core.requests.media import check_media, media_kind, media_type
from corral.core.requests.messages import Message
from corral.core.requests.prompts import MediaPart, Prompt
from corral.core.requests.requests import ChatRequest
from corral.plugins.testing.images import png_bytes

FORMATS = ("png", "jpeg", "gif", "webp", "bmp")
RED, BLUE = png_bytes(colour=(255, 0, 0)), png_bytes(colour=(0, 0, 255))


def written(format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((37, 21), 80).convert("RGB").save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "options"),
    [*((format, {}) for format in FORMATS), ("webp", {"lossless": True}), ("webp", {"exif": b"Exif\0\0"}),
     ("jpeg", {"progressive": True}), ("jpeg", {"exif": b"Exif\0\0" + b"\xff\xd9" * 9})],
)  # fmt: skip
def test_sizes_are_read_and_cut_files_noticed(format: str, options: dict[str, object]) -> None:
    """The size comes from the header of each format and variant, and a file without its end is refused."""
    data = written(format, **options)
    header = read_image_header(data)
    assert header is not None
    assert (header.format, header.width, header.height, header.truncated) == (format, 37, 21, False)
    assert (media_kind(data), media_type(data)) == ("image", f"image/{format}")
    check_media([data])
    for end in (len(data) // 2, len(data) - len(data) // 8):
        with pytest.raises(InvalidRequest, match="image 2 is truncated"):
            check_media([data, data[:end]])


@pytest.mark.parametrize("format", FORMATS)
def test_every_beginning_of_a_file_is_refused_or_known(format: str) -> None:
    """No header can crash the check, however short it is cut."""
    data = written(format)
    for end in range(min(len(data) - 16, 900)):
        with pytest.raises(InvalidRequest, match="image 1"):
            check_media([data[:end]])


def test_what_is_no_usable_image() -> None:
    """Other files, images without pixels or with too many, and those that are far too narrow are refused by number."""
    bomb = bytearray(RED)
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    empty = bytearray(RED)
    empty[16:24] = bytes(8)
    for data, text in (
        (b"", "image 1 is not an image"),
        (b"%PDF-1.7", "image 1 is not an image"),
        (bytes(bomb), "image 1 has 60000 x 60000 pixels; at most 64000000"),
        (bytes(empty), "image 1 has no pixels"),
        (png_bytes(1, 201), "one side may be at most 200 times"),
    ):
        with pytest.raises(InvalidRequest, match=text):
            check_media([data])


def test_headers_without_end_take_a_bounded_number_of_steps() -> None:
    """Files made of padding, of empty chunks or of tiny blocks are refused, after a bounded number of steps."""
    frame = struct.pack("<HHBBB", 1, 1, 0, 0, 0)
    chunk = b"PLTE".rjust(8, b"\0") + bytes(4)
    for data in (
        b"\xff\xd8" + b"\xff" * (32 << 20),
        b"GIF89a" + frame + b"\x21\xf9" + b"\x01\x01" * (16 << 20),
        RED[:33] + chunk * (1 << 20),
    ):
        with pytest.raises(InvalidRequest, match="image 1"):
            check_media([data])


def test_images_are_repeated_a_few_times_only() -> None:
    """Neither a raw prompt nor a template can multiply a large file, and a template's own marks stand for nothing."""
    message = Message(role="user", content="a", images=(RED,))
    assert len(raw_prompt("[img-0] and [img-0], not [img-7]", (RED,))) == 4
    with pytest.raises(InvalidRequest, match="the prompt has 5 places for 1 image;"):
        raw_prompt("[img-0]" * 5, (RED,))
    with pytest.raises(InvalidRequest, match="the prompt has 5 places for 1 image;"):
        GoFormat("{{ range 5 }}{{ $.Prompt }}{{ end }}").render(ChatRequest(messages=(message,)))
    prompt = GoFormat("{{ .Prompt }}\ufdd29\ufdd3").render(ChatRequest(messages=(message,))).prompt
    assert sum(isinstance(part, MediaPart) for part in prompt) == 1


def test_sound_is_told_from_images() -> None:
    """WAV and MP3 by their first bytes; a JPEG begins almost like an MP3."""
    assert media_type(b"RIFF\0\0\0\0WAVEfmt ") == "audio/wav"
    assert {media_type(b"ID3\x04"), media_type(b"\xff\xfb\x90")} == {"audio/mpeg"}
    assert media_kind(written("jpeg")) == "image"


def shown(prompt: Prompt) -> str:
    """The prompt with images as ``{red}`` and ``{blue}``, and text in which no control token counts in brackets."""
    names = {RED: "{red}", BLUE: "{blue}"}
    pieces = []
    for part in prompt:
        if isinstance(part, MediaPart):
            pieces.append(names[part.data])
        else:
            text = getattr(part, "text", "")
            pieces.append(text if getattr(part, "parse_special", False) else f"({text})")
    return "".join(pieces)


STRINGS = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}"
PARTS = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}"
    "{% if part.type == 'text' %}{{ part.text | trim }}{% endif %}{% endfor %}{% endfor %}"
)


@pytest.mark.parametrize("template", [STRINGS, PARTS])
def test_images_stand_where_messages_have_them(template: str) -> None:
    """In front of their message, or in place of each ``[img]`` in it; for templates that read strings and parts."""
    messages = (
        Message(role="system", content="s", images=(RED,)),
        Message(role="user", content=" a [img] b ", images=(BLUE, RED)),
        Message(role="assistant", content="c"),
        Message(role="user", content="no [img], no [img-0], no <__media__>"),
        Message(role="tool", content="t", images=(BLUE,)),
    )
    prompt = JinjaFormat(template).render(ChatRequest(messages=messages), ControlTokens(("<user>",))).prompt
    expected = "<system>{red}s<user>{red} a {blue} b<assistant>c<user>no [img], no [img-0], no <__media__><tool>{blue}t"
    assert shown(prompt) == expected


GO = "{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}"
LEGACY = "{{ if .System }}<system>{{ .System }}{{ end }}<user>{{ .Prompt }}<assistant>{{ .Response }}"


@pytest.mark.parametrize("template", [GO, LEGACY])
def test_images_go_through_go_templates(template: str) -> None:
    """In both of their forms, and where messages of one role are joined."""
    messages = (
        Message(role="system", content="s", images=(RED,)),
        Message(role="user", content="a [img] b", images=(BLUE,)),
        Message(role="user", content="c", images=(RED,)),
        Message(role="assistant", content="d"),
        Message(role="user", content="e", images=(BLUE, RED)),
    )
    prompt = GoFormat(template).render(ChatRequest(messages=messages), ControlTokens(())).prompt
    expected = "<system>{red}s<user>a {blue} b\n\n{red}c<assistant>d<user>{blue}{red}e"
    assert shown(prompt).removesuffix("<assistant>") == expected


def test_typed_marks_and_control_tokens_stay_text() -> None:
    """Marks that someone typed vanish; control tokens beside images are still text."""
    typed = "\ufdd20\ufdd3<|x|>[img]<|x|>"
    request = ChatRequest(messages=(Message(role="user", content=typed, images=(RED,)),))
    for chat_format in (JinjaFormat(STRINGS.replace("<{{ m.role }}>", "")), PlainFormat()):
        assert shown(chat_format.render(request, ControlTokens(("<|x|>",))).prompt) == "0(<|x|>){red}(<|x|>)"


def test_images_of_system_messages_survive_a_template_without_them() -> None:
    """Folded into the first user message, the images stand in the same order as the texts."""
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    messages = (
        Message(role="system", content="s[img]", images=(RED,)),
        Message(role="user", content="u[img]", images=(BLUE,)),
    )
    prompt = JinjaFormat(template).render(ChatRequest(messages=messages), ControlTokens(())).prompt
    assert shown(prompt) == "s{red}\n\nu{blue}"


def test_raw_prompts_place_their_images() -> None:
    """``[img-N]`` is replaced by image N; images that are not mentioned stand in front, other numbers stay text."""
    assert shown(raw_prompt("a[img-1]b[img-7]", (RED, BLUE))) == "{red}a{blue}b[img-7]"
    assert shown(raw_prompt("a[img-0]", ())) == "a[img-0]"
