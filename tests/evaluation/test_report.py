import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from made_crystals import make_cell, rock_salt

from eval.evaluate import evaluate
from eval.page import viewer_library
from eval.report import (
    CrystalPair,
    FieldSlice,
    read_history,
    select_cases,
    write_report,
)
from eval.table import format_table
from nesf.errors import InputError

EVIL = '</script><img src=x onerror="document.title=1">'


@pytest.fixture(scope="module")
def result():
    generator = np.random.default_rng(0)
    reference = [(EVIL, rock_salt().to_structure())]
    reference += [(f"c-{i}", make_cell(generator, i + 2).to_structure()) for i in range(9)]
    predicted = [(name, structure.copy()) for name, structure in reference]
    for _, structure in predicted:
        structure.perturb(0.05)
    predicted[3] = (predicted[3][0], None)
    result = evaluate(predicted, reference, matching=False, bootstrap=20, progress=False)
    return result, dict(reference), dict(predicted)


@pytest.fixture(scope="module")
def page(result, tmp_path_factory):
    result, true, found = result
    rows = {row["id"]: row for row in result["rows"]}
    pairs = [
        CrystalPair(name, true[name], found[name], rows[name], "random")
        for name in (EVIL, "c-2", "c-3")
    ]
    axis = np.linspace(0, 5.64, 20)
    distance = np.hypot(*np.meshgrid(axis, axis))
    species = np.where(distance < 3, 11, 17)
    plane = FieldSlice(
        "c-1",
        "z = 0",
        distance,
        distance,
        species,
        species,
        (0.0, 5.64, 0.0, 5.64),
        [(0.0, 0.0, 11)],
    )
    history = {
        "train/loss": [(i, 100.0 / (1 + i)) for i in range(2000)],
        "val/loss": [(i, 120.0 / (1 + i)) for i in range(0, 2000, 100)],
        "lr": [(0, 1e-3), (1, float("nan"))],
    }
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(
        path,
        title=f"A run {EVIL}",
        metrics=result,
        summary={"model": EVIL},
        history=history,
        pairs=pairs,
        field_slices=[plane],
    )
    return path


class Reader(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.data: dict[str, str] = {}

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(dict(attrs).get("id") or tag)

    def handle_data(self, data):
        if self.open:
            self.data[self.open[-1]] = self.data.get(self.open[-1], "") + data


def test_the_page_loads_nothing_and_runs_only_its_own_scripts(page):
    reader = Reader()
    reader.feed(page.read_text())
    assert [tag for tag, _ in reader.tags].count("script") == 3
    for tag, attributes in reader.tags:
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:")), (tag, target)
        assert not any(name.startswith("on") for name in attributes)
    assert "img" not in {tag for tag, _ in reader.tags}


def test_crystals_survive_as_json_that_no_parser_reads_as_markup(page):
    text = page.read_text()
    raw = re.search(r'<script type="application/json" id="crystals">(.*?)</script>', text, re.S)
    data = json.loads(raw[1])
    assert data["pairs"][0]["id"] == EVIL
    assert "<" not in raw[1]
    # rock salt: the 8 atoms of the cell, and their images on faces, edges and corners
    assert data["pairs"][0]["true"]["num_atoms"] == 8
    assert len(data["pairs"][0]["true"]["atoms"]) == 27
    missing = [pair["id"] for pair in data["pairs"] if pair["reconstructed"] is None]
    assert missing == ["c-2"]


def test_charts_take_the_colour_of_the_page(page):
    text = page.read_text()
    charts = re.findall(r'<svg role="img".*?</svg>', text, re.S)
    assert len(charts) == 3  # two quantities, one plane
    assert all("currentColor" in chart and "#010203" not in chart for chart in charts)
    assert all(name in charts[0] for name in ("train", "val", "loss"))


def test_the_vendored_viewer_is_the_one_that_was_checked(monkeypatch):
    from eval import page

    assert len(viewer_library()) > 500_000
    assert "</script" not in viewer_library().lower()
    asset = page._asset
    monkeypatch.setattr(
        page, "_asset", lambda name: asset(name) + ("x" if name.endswith(".js") else "")
    )
    with pytest.raises(InputError, match="damaged"):
        viewer_library()


def test_a_report_without_crystals_is_small(result, tmp_path):
    write_report(tmp_path / "report.html", title="A run", metrics=result[0])
    assert (tmp_path / "report.html").stat().st_size < 30_000


def test_cases_are_chosen_once_and_failures_come_first(result):
    rows = result[0]["rows"]
    cases = select_cases(rows, worst=2, median=2, random=3)
    assert cases == select_cases(rows, worst=2, median=2, random=3)
    assert cases[0] == ("c-2", "worst")
    assert len(dict(cases)) == len(cases) == 7
    assert len(select_cases(rows)) == 10


def test_history_is_read_from_event_files_and_the_later_run_stands(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    for folder, offset in (("version_0", 0.0), ("version_1", 100.0)):
        with SummaryWriter(str(tmp_path / folder)) as writer:
            for step in range(3) if offset == 0 else range(2, 5):
                writer.add_scalar("train/loss", step + offset, step, walltime=1000 + offset)
            writer.add_scalar("epoch", 1, 0)
    history = read_history(tmp_path)
    assert history == {"train/loss": [(0, 0), (1, 1), (2, 102), (3, 103), (4, 104)]}


def test_a_browser_without_network_draws_every_crystal(page, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    picture = tmp_path / "page.png"
    dom = subprocess.run(
        [
            browser,
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            "--use-angle=swiftshader",
            "--enable-unsafe-swiftshader",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=900,3000",
            f"--screenshot={picture}",
            "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout
    body = re.search(r"<body[^>]*>", dom)[0]
    data = re.search(r'id="crystals">(.*?)</script>', dom, re.S)[1]
    sides = [pair[side] for pair in json.loads(data)["pairs"] for side in ("true", "reconstructed")]
    atoms = sum(len(side["atoms"]) for side in sides if side)
    assert f'data-viewers="5" data-atoms="{atoms}" data-errors="0"' in body
    assert dom.count("no crystal") == 2  # the words in the script, and one empty place
    assert "<title>A run &lt;/script&gt;" in dom

    from PIL import Image

    pixels = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
    # chlorine's green and sodium's violet are on no other part of the page
    green = (pixels[:, 1] > 120) & (pixels[:, 0] < 90) & (pixels[:, 2] < 90)
    violet = (pixels[:, 2] > 120) & (pixels[:, 1] < 90) & (pixels[:, 0] > 60)
    assert green.sum() > 1000
    assert violet.sum() > 1000


def test_encoder_and_refined_latents_stand_side_by_side(result, tmp_path):
    refined, true, found = result
    names = list(true)
    worse = [(name, None if i == 5 else found[name]) for i, name in enumerate(names)]
    alone = evaluate(worse, list(true.items()), matching=False, bootstrap=20, progress=False)
    before = {row["id"]: row for row in alone["rows"]}
    rows = {row["id"]: row for row in refined["rows"]}
    pair = CrystalPair(
        "c-4", true["c-4"], found["c-4"], rows["c-4"], "worst", None, None, before["c-4"]
    )
    path = tmp_path / "report.html"
    write_report(path, title="A run", metrics=refined, pairs=[pair], encoder_alone=alone, refine=40)
    text = path.read_text()
    label = "latents refined by up to 40 steps on the crystals themselves"
    cards = text[text.index('<div class="cards">') : text.index("<h2>Reconstruction")]
    assert cards.count(label) == cards.count("encoder alone") == 3
    for one in (alone, refined):  # failures count, so that the two differ
        wrong = one["metrics"]["wrong_count"]["value"]
        assert f"{100 - wrong:.2f} %" in cards
    assert alone["metrics"]["wrong_count"] != refined["metrics"]["wrong_count"]
    data = json.loads(re.search(r'id="crystals">(.*?)</script>', text, re.S)[1])
    assert list(data["pairs"][0]) == ["id", "true", "encoder alone", "latents refined"]
    assert data["pairs"][0]["encoder alone"] is None
    assert "3 listed" in text  # one crystal failed in both, one in one
    printed = format_table(refined, alone, 40)
    assert printed.startswith(f"{label.capitalize()}.")
    for row in printed.splitlines():
        if row.startswith("| wrong atom count"):
            cells = [cell.strip() for cell in row.split("|")[1:-1]]
            values = [f"{one['metrics']['wrong_count']['value']:.2f} %" for one in (alone, refined)]
            assert [cells[1], cells[3]] == values
            break
    else:
        raise AssertionError("no such row")
