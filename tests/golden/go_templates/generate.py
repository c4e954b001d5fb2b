"""Renders the cases of this folder with Go, and keeps the results in ``expected.json.xz``: ``python generate.py``.

The cases are every template of ``templates`` with every conversation of ``conversations.json``, and the small
templates of ``snippets.json.xz``, which are all executed with its data, or with a conversation.
"""

from __future__ import annotations

import json
import lzma
import subprocess
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def read(name: str) -> Any:
    return json.loads(lzma.decompress((HERE / name).read_bytes()))


def chats() -> list[tuple[str, str]]:
    """Names of templates and conversations. A suffix is for templates that have a place for it."""
    conversations = json.loads((HERE / "conversations.json").read_text("utf-8"))
    return [
        (template.stem, name)
        for template in sorted((HERE / "templates").iterdir())
        for name, chat in conversations.items()
        if "suffix" not in chat or ".Suffix" in template.read_text("utf-8")
    ]


def main() -> None:
    conversations = json.loads((HERE / "conversations.json").read_text("utf-8"))
    snippets = read("snippets.json.xz")
    cases = [
        {"template": (HERE / "templates" / f"{template}.gotmpl").read_text("utf-8"), "chat": conversations[name]}
        for template, name in chats()
    ]
    cases += [{"template": template, "data": snippets["data"]} for template in snippets["templates"]]
    cases += [{"template": template, "chat": conversations[name]} for template, name in snippets["chats"]]
    data = json.dumps(cases)
    done = subprocess.run(["go", "run", "."], cwd=HERE, input=data, capture_output=True, text=True, check=True)
    (HERE / "expected.json.xz").write_bytes(lzma.compress(done.stdout.encode(), preset=9))


if __name__ == "__main__":
    main()
