"""The house rules, checked: who may commit, what a module is called, how long it is, and which words it uses."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG, NOT_LONG

ROOT = Path(__file__).parent.parent
MODULES = sorted(path for room in ("app", "jobs", "trainer", "migrations") for path in (ROOT / room).rglob("*.py"))
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "core", "base_service", "data", "info"}
MOST_LINES = 400
MOST_FUNCTION_LINES = 60


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_house_rules(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source)
    calls = {
        node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }

    assert path.stem not in VAGUE, "name the module after what it owns"
    assert ast.get_docstring(tree), "say in one sentence what the module owns"
    if path.parts[-2] != "versions" and path != ROOT / "migrations" / "env.py":
        assert source.count("\n") <= MOST_LINES, "split by noun"
        assert "commit" not in calls, "only app.db.session ends a transaction; use flush()"
    assert not {"pickle", "joblib", "dill", "marshal", "shelve"} & _imports(tree), "an artifact must never run code"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_enough_to_be_read(path: Path) -> None:
    if path.parts[-2] == "versions":
        pytest.skip("a migration is one list of statements")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno
            assert length <= MOST_FUNCTION_LINES, f"{node.name} has {length} lines"


def _imports(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("place", [*LONG, *NOT_LONG])
def test_what_is_listed_as_a_long_test_is_there(place: str) -> None:
    assert (ROOT / place).exists()


def test_services_never_open_a_transaction() -> None:
    for path in (ROOT / "app" / "services").glob("*.py"):
        assert "app.db.session import" not in path.read_text(encoding="utf-8") or not {
            "transaction",
            "UnitOfWork",
        } & set(path.read_text(encoding="utf-8").split()), path.name


@pytest.mark.parametrize(
    "heavy", ["torch", "transformers", "sklearn", "scipy", "matplotlib", "apscheduler", "onnxruntime", "tokenizers"]
)
def test_web_process_imports_nothing_heavy(heavy: str) -> None:
    # In a process of its own: this one has imported everything by now.
    code = f"import app.main, app.scorers, sys; sys.exit(any(name.split('.')[0] == {heavy!r} for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_trainer_imports_no_database() -> None:
    code = "import trainer.__main__, sys; sys.exit('sqlalchemy' in sys.modules or 'fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_secret_or_machine_path_is_committed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.splitlines():
        assert not name.endswith((".env", ".db", ".key", ".pem")), name
