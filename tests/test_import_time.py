"""What is imported when: a quick start, and which part may know which."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from nesf.commands.verbs import VERBS

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "pymatgen", "lightning", "pandas", "sklearn", "matplotlib", "scipy", "skimage")
# a packed data set is trained on with these alone, on machines without pymatgen
TRAINING = (
    "nesf.crystal",
    "nesf.geometry",
    "nesf.fields",
    "nesf.decoders",
    "nesf.encoder",
    "nesf.autoencoder",
    "nesf.queries",
    "nesf.losses",
    "nesf.augment",
    "nesf.exact",
    "nesf.reconstruction.reconstruct",
    "nesf.checkpoint",
    "nesf.checkpoint_io",
    "nesf.api",
    "nesf.data.packed",
    "nesf.data.module",
    "nesf.training",
    "nesf.fit",
    "baselines.voxel_icsg3d.voxelize",
    "baselines.voxel_icsg3d.model",
    "baselines.voxel_icsg3d.training",
    "baselines.voxel_icsg3d.property_data",
    "baselines.voxel_icsg3d.property_training",
    "baselines.voxel_icsg3d.hoffmann_training",
    "baselines.voxelnet.training",
)
# what has the signatures and docstrings of the commands; `nesf fit` takes a config's
COMMANDS = sorted({v.function.partition(":")[0] for v in VERBS.values() if not v.raw})
BLOCK_PYMATGEN = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "pymatgen":
            raise ImportError("pymatgen is not installed here")
sys.meta_path.insert(0, Block())
"""


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300, cwd=ROOT
    )


@pytest.mark.parametrize(
    "statement",
    [
        "import nesf",
        "import nesf.cli",
        *(f"import {module}" for module in COMMANDS),
        "from nesf.cli import main; main(['--help'])",
        "from nesf.cli import main; main(['--version'])",
        "from nesf.cli import main; main(['data', '--help'])",
    ],
)
def test_nothing_heavy_is_imported(statement):
    done = run(f"{statement}\nimport sys\nprint('loaded', *sorted(sys.modules))")
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.splitlines()[-1].split()[1:]
    assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("words", [["--help"], ["data", "pack", "--help"], ["sample", "--help"]])
def test_help_is_quick(words):
    """In processor time, since tests share their machine."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "nesf", *words], capture_output=True, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_training_imports_without_pymatgen():
    modules = "\n".join(f"import {name}" for name in TRAINING)
    done = run(f"{BLOCK_PYMATGEN}\n{modules}\nassert 'pymatgen' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_the_block_blocks():
    done = run(f"{BLOCK_PYMATGEN}\nimport pymatgen.core")
    assert "pymatgen is not installed here" in done.stderr


def module_level_imports(path: Path) -> set[str]:
    """Top packages that a file imports when it is imported itself."""
    found: set[str] = set()
    pending: list[ast.AST] = list(ast.parse(path.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            pending += list(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("nesf", {"eval", "baselines"}), ("eval", {"baselines"})],
)
def test_who_may_import_whom(package, forbidden):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    offenders = {
        str(path.relative_to(ROOT)): sorted(found)
        for path in files
        if (found := module_level_imports(path) & forbidden)
    }
    assert not offenders


def test_the_import_scan_sees_imports(tmp_path):
    path = tmp_path / "m.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import a\n"
        "try:\n    import b.c\nexcept ImportError:\n    import d\n"
        "class K:\n    from e import f\ndef g():\n    import h\n"
    )
    assert module_level_imports(path) == {"typing", "b", "d", "e"}
