"""`genzoo new`: an installable plugin distribution with a small model, or data set, that works. No torch."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from string import Template

from genzoo.cards import NAME
from genzoo.errors import UnknownNameError, UsageError
from genzoo.records import write_bytes

FAMILIES = {
    "density": "a mixture of Gaussians trained by gradient",
    "latent": "a small latent-variable model",
    "dataset": "two crossed bars in the plane",
}
"""What can be written, with the summary of what it starts as."""

COMMANDS = {
    "model": "genzoo list models ${name}\ngenzoo check ${name}    # --explain: what each check means\n"
    "genzoo bench -m ${name},gaussian -d moons --budget 20s",
    "data": "genzoo list datasets ${name}\ngenzoo bench -m gaussian -d ${name}",
}


def files(name: str, family: str) -> dict[str, str]:
    """Relative path to content of the distribution `genzoo-<name>`.

    Raises:
        UsageError: a name that plugins cannot have. UnknownNameError: no such family.
    """
    if family not in FAMILIES:
        raise UnknownNameError("family", family, FAMILIES)
    if not NAME.match(name) or not name.isidentifier():
        raise UsageError(f"{name!r} is not a plugin name: expected a letter, then letters, digits and _ (at most 32)")
    sort = "data" if family == "dataset" else "model"
    values = {
        "name": name,
        "dashed": name.replace("_", "-"),
        "camel": "".join(part.capitalize() for part in name.split("_")),
        "summary": FAMILIES[family],
        "commands": Template(COMMANDS[sort]).substitute(name=name),
    }
    test = f"{family}/test_data.py" if sort == "data" else "common/test_model.py"
    sources = {
        "pyproject.toml": "common/pyproject.toml",
        "README.md": "common/README.md",
        f"src/genzoo_{name}/__init__.py": f"{family}/__init__.py",
        f"src/genzoo_{name}/{sort}.py": f"{family}/{sort}.py",
        f"tests/test_{name}.py": test,
    }
    made = {path: Template(_template(source)).substitute(values) for path, source in sources.items()}
    return {**made, f"src/genzoo_{name}/py.typed": ""}


def write(name: str, family: str, parent: Path) -> Path:
    """Write the distribution into `parent` and return its folder; UsageError where something stands there already."""
    folder = parent / f"genzoo-{name.replace('_', '-')}"
    content = files(name, family)
    if folder.exists():
        raise UsageError(f"{folder} exists: give another name, or remove it first")
    for path, text in content.items():
        write_bytes(folder / path, text.encode())
    return folder


def _template(path: str) -> str:
    return (resources.files(__name__) / f"{path}.txt").read_text(encoding="utf-8")
