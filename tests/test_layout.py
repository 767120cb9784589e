"""The layout of the code: which module may import which, and how long a file may be."""

import ast
import graphlib

from conftest import ROOT

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in [*ROOT.glob("*.py"), *ROOT.glob("atelier/**/*.py")]
    if path.stem != "__init__"
}
SHARED = ("config", "util")  # modules in the root folder that are not scripts


def imported_by(path):
    """Return the modules of SOURCES that a file imports, directly or with lazy_import."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("lazy_import"):
            names.add(node.args[0].value)
    return names & SOURCES.keys()


IMPORTS = {name: imported_by(path) for name, path in SOURCES.items()}


def test_no_module_imports_a_script():
    scripts = {name for name in SOURCES if "." not in name} - {*SHARED}
    assert len(scripts) == 7
    assert {name: found & scripts for name, found in IMPORTS.items() if found & scripts} == {}


def test_shared_modules_import_no_subpackage():
    shared = {name for name in SOURCES if name.count(".") == 1}
    assert {name: IMPORTS[name] - shared - {*SHARED} for name in shared if IMPORTS[name] - shared - {*SHARED}} == {}
    assert IMPORTS["config"] == set()


def test_no_imports_are_circular():
    assert [*graphlib.TopologicalSorter(IMPORTS).static_order()][-1] in SOURCES  # raises CycleError


def test_no_file_is_longer_than_600_lines():
    files = [*SOURCES.values(), *ROOT.glob("tests/*.py"), *ROOT.glob("benchmarks/*.py")]
    assert [path.name for path in files if len(path.read_text().splitlines()) > 600] == []
