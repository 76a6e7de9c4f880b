"""Run the README's session for real and write what it printed between its markers.

python benchmarks/readme_session.py      # about a minute; needs the plugins installed
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
COMMANDS = (
    "genzoo bench -m vae,flow,ddpm -d moons --budget 20s -o runs/first",
    "genzoo score runs/first/cells/flow-moons-0-* points.csv",
)
POINTS = "x,y\n0.0,1.0\n1.0,-1.0\n9.0,9.0\n"


def session() -> str:
    """The commands and their standard output (the log, on stderr, is left out), as a console block shows them."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "points.csv").write_text(POINTS, encoding="utf-8")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for command in COMMANDS:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=folder,
                env={**os.environ, "PATH": path, "COLUMNS": "120"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            lines += [f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines()), ""]
            if shlex.split(command)[1] == "score":
                lines.insert(-len(done.stdout.splitlines()) - 2, "$ cat points.csv\n" + POINTS.rstrip())
    return "\n".join(lines).rstrip()


def main() -> None:
    """Rewrite the block between the session markers."""
    block = f"<!-- session:bench -->\n```console\n{session()}\n```\n<!-- /session:bench -->"
    text = README.read_text(encoding="utf-8")
    text, count = re.subn(r"<!-- session:bench -->.*?<!-- /session:bench -->", lambda _: block, text, flags=re.DOTALL)
    if count != 1:
        sys.exit("README.md has no session markers")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
