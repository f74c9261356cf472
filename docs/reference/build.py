"""Writes the reference pages from the sources: `python docs/reference/build.py [--check]`.

`cli.md` from the commands' own help, `api.md` from the public names' docstrings, `schema.json` (what `--json` prints)
from the types of the commands' results. `--check` writes nothing and fails where a page is not what it would write.
"""

from __future__ import annotations

import sys
from pathlib import Path

from api_page import api_page
from cli_page import cli_page
from json_schema import json_schema

HERE = Path(__file__).parent
NOTE = "<!-- written by docs/reference/build.py -->"

PAGES = {"cli.md": cli_page, "api.md": api_page, "schema.json": json_schema}


def main() -> None:
    """Write the pages, or check them."""
    for name, page in PAGES.items():
        title, _, rest = page().partition("\n")
        text = f"{title}\n\n{NOTE}\n{rest}" if name.endswith(".md") else f"{title}\n{rest}"
        path = HERE / name
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            sys.exit(f"docs/reference/{name} is not what the sources say: run docs/reference/build.py")


if __name__ == "__main__":
    main()
