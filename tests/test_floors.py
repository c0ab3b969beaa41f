"""Imports point down the page of the architecture only, and name the module that defines."""

import ast
from pathlib import Path

import pytest

import maskhone

ROOT = Path(maskhone.__file__).parent
FLOORS = {
    "contracts": 0, "errors": 0,
    "ops": 1,
    "data": 2, "metrics": 2, "nn": 2,
    "engine": 3, "segmenters": 3,
    "methods": 4,
    "pipelines": 5,
    "cli": 6, "__main__": 6, "__init__": 6,
}  # fmt: skip
ROOF_AND_BASE = (0, 6)  # loose modules, which may know one another


def find_floor(module):
    return FLOORS[[*module.split("."), "__init__"][1]]


def find_room(module):
    """Names the part of a floor whose modules may import one another."""
    parts = module.split(".")
    floor = find_floor(module)
    if floor in ROOF_AND_BASE:
        return str(floor)
    return ".".join(parts[1:3]) if parts[1] == "methods" else parts[1]


def find_imports(source):
    """Yields the maskhone modules that a source imports, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            if (node.module or "").split(".")[0] == "maskhone":
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "maskhone")


def find_fault(importer, imported, packages):
    """Says what is wrong with an import, or None."""
    if imported in packages and imported != "maskhone":
        return f"{importer} imports the package {imported}, not the module that defines"
    low, high = find_floor(imported), find_floor(importer)
    if low > high:
        return f"{importer} imports {imported}, from a floor above"
    is_catalogue = importer == "maskhone.methods.catalogue"
    if low == high and find_room(importer) != find_room(imported) and not is_catalogue:
        return f"{importer} imports {imported}, from another room of its floor"
    return None


def list_sources():
    return {
        ".".join(["maskhone", *p.relative_to(ROOT).with_suffix("").parts]): p
        for p in sorted(ROOT.rglob("*.py"))
    }


def test_imports_point_down_and_name_the_defining_module():
    packages = {m.removesuffix(".__init__") for m in list_sources() if m.endswith("__init__")}
    faults = [
        fault
        for module, path in list_sources().items()
        for imported in find_imports(path.read_text(encoding="utf-8"))
        if (fault := find_fault(module, imported, packages))
    ]
    assert faults == []


def test_every_module_lives_on_a_floor():
    assert {find_floor(module) for module in list_sources()} <= set(range(7))


def test_no_module_is_called_utils():
    assert not [m for m in list_sources() if m.rpartition(".")[2] in ("utils", "util", "helpers")]


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("maskhone.ops.boxes", "maskhone.data.images"),
        ("maskhone.pipelines.refine", "maskhone"),
        ("maskhone.data.images", "maskhone.metrics.region"),
        ("maskhone.methods.bpr.refine", "maskhone.methods.classic.crf"),
        ("maskhone.methods.bpr.refine", "maskhone.methods.catalogue"),
        ("maskhone.cli", "maskhone.engine"),
    ],
)
def test_the_checker_refuses(importer, imported):
    assert find_fault(importer, imported, {"maskhone", "maskhone.engine"})


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("maskhone.ops.boxes", "maskhone.contracts"),
        ("maskhone.methods.bpr.refine", "maskhone.methods.bpr.config"),
        ("maskhone.methods.catalogue", "maskhone.methods.bpr.config"),
        ("maskhone.cli", "maskhone"),
        ("maskhone.__init__", "maskhone.pipelines.arrays"),
    ],
)
def test_the_checker_allows(importer, imported):
    assert find_fault(importer, imported, {"maskhone", "maskhone.engine"}) is None


def test_imports_inside_functions_are_seen():
    source = "def f():\n    from maskhone.data.images import read_image\n    import maskhone.cli\n"
    assert list(find_imports(source)) == ["maskhone.data.images", "maskhone.cli"]
