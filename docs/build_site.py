"""Builds the site from the pages in this folder: `python docs/build_site.py FOLDER`. FOLDER must be new.

Needs the extra `docs`. Strict: a link that leads nowhere ends it with an error, and nothing is left behind.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> None:
    """Build in a temporary folder, as zensical leaves a cache beside the pages, and keep the site alone."""
    if len(sys.argv) != 2 or Path(sys.argv[1]).exists():
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="ckstore-site-") as scratch:
        shutil.copytree(HERE, Path(scratch, "docs"), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.move(Path(scratch, "docs", "zensical.toml"), scratch)
        ran = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=scratch, check=False)
        if ran.returncode:
            sys.exit(ran.returncode)
        shutil.move(Path(scratch, "site"), sys.argv[1])


if __name__ == "__main__":
    main()
