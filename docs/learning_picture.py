"""The README's learning curves, from the recorded lines of a comparison; nothing is measured.

python docs/learning_picture.py
"""

import argparse
import json
from pathlib import Path

from eval.compare.read_plan import read_plan
from eval.compare.showing.charting import model_colors
from eval.compare.showing.plots import reconstruction_charts
from eval.compare.showing.summary import outcomes_of
from nesf.atomic import atomic_write


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", default="configs/compare/icsg3d_cpu.yaml")
    parser.add_argument("--lines", default="docs/results/compare/icsg3d_cpu.jsonl")
    parser.add_argument("--output", default="docs/images/compare_learning.png")
    given = parser.parse_args()
    plan = read_plan(given.plan).parts[0]
    lines = [json.loads(line) for line in Path(given.lines).read_text().splitlines()]
    outcomes = outcomes_of(plan, lines)
    drawn = reconstruction_charts(outcomes, [], model_colors(plan))
    charts = {chart.name: chart for chart in drawn}
    with atomic_write(given.output) as file:
        file.write(charts["learning"].png)


if __name__ == "__main__":
    main()
