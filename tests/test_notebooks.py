"""The notebooks run from top to bottom, and show what they showed when they were written."""

from pathlib import Path

import pytest

pytest.importorskip("ipykernel", reason="needs the extra nesf[notebooks]")
nbclient = pytest.importorskip("nbclient", reason="needs the extra nesf[notebooks]")
nbformat = pytest.importorskip("nbformat", reason="needs the extra nesf[notebooks]")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
TIMEOUT = 300  # s a cell, on a busy machine
LARGEST = 1_000_000  # bytes: pictures are small


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(notebook) -> int:
    """Pictures among the outputs of all cells."""
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_there_are_notebooks():
    assert "fields_and_particles" in NAMES


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_stored_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds
    assert pictures(notebook) >= 2
    assert path.stat().st_size < LARGEST


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_runs_in_a_fresh_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    stored = pictures(notebook)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    )
    client.execute()  # raises where a cell errs
    assert pictures(notebook) == stored
