"""The README's Python, run as it stands; and every command that is written anywhere, parsed."""

import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

from nesf.cli import EXIT_CODES, split_verb
from nesf.commands.parser import FunctionParser
from nesf.commands.verbs import VERBS
from nesf.errors import InputError
from nesf.fit import FitCLI, fit_command
from nesf.fit_parser import FitParser

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
NAMES = ("nesf", "together")  # the second one is a function of examples/torchrun.sh
END = re.compile(r"(\|\||&&|[;|>]).*")  # of a command


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python_examples() -> None:
    structure = Structure(Lattice.cubic(4.2), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    names: dict[str, object] = {"structure": structure, "query": torch.rand(1, 7, 3) * 4}
    code = blocks("python")
    assert len(code) >= 3
    for block in code:
        exec(block, names)
    assert names["latent"].shape == (1, 256)
    assert names["offset"].shape == (1, 7, 3)
    assert names["logits"].shape == (1, 7, 94)
    assert isinstance(names["structures"][0], Structure)
    assert names["found"].crystals.to_structures()[0].composition == structure.composition
    assert names["exact"].shape == (1, 256)
    assert names["offsets"].shape == (1, 100, 3)


def shell_commands(text: str) -> Iterator[list[str]]:
    """The words behind each `nesf` of a shell script, whose variables have any value."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"(?<=\s)\$\w+(?=\s)", "", line)  # options, if any
        line = re.sub(r'"\$(\{[^}]*\}|\w+)"', "1", line)  # a number or a name
        words = shlex.split(re.sub(r"\$(\{[^}]*\}|\w+)", "some", line), comments=True)
        for place, word in enumerate(words):
            if word in NAMES and words[place + 1 : place + 2] != ["$@"]:
                yield words[place + 1 :]
                break
            if word == "eval.folds" and "--" in words:  # options behind it are those of `nesf fit`
                config = words[place + 1]
                yield ["fit", "--config", config, *words[words.index("--") + 1 :]]


def inline_commands(text: str) -> Iterator[list[str]]:
    """The words of `nesf ...` in a text, where they are more than the name of a command."""
    for found in re.findall(r"`nesf ([^`]+)`", text):
        if not re.search(r"\.\.\.|…|FILE\b", found) and " -" in found:
            yield shlex.split(found)


def written_commands() -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Where it is written, its words, and whether it is a whole command."""
    for path in (README, *sorted((ROOT / "docs").glob("*.md"))):
        text = path.read_text()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
            yield from ((path.name, tuple(words), True) for words in shell_commands(block))
        prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        yield from ((path.name, tuple(words), False) for words in inline_commands(prose))
    for path in sorted((ROOT / "examples").glob("*.s*")):
        yield from ((path.name, tuple(words), True) for words in shell_commands(path.read_text()))
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        calls = r"^#   ((?:nesf|srun|torchrun|python) .*?)(?:  +\(.*\))?$"
        for line in re.findall(calls, path.read_text(), re.MULTILINE):
            yield from ((path.name, tuple(words), True) for words in shell_commands(line))


@pytest.fixture(scope="module")
def fit_parser() -> FitParser:
    """The parser of `nesf fit`, caught as it is to be used."""
    caught: list[FitParser] = []

    def catch(_: FitCLI, parser: FitParser, args: list[str]) -> None:
        caught.append(parser)
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FitCLI, "parse_arguments", catch)
        with pytest.raises(InterruptedError):
            fit_command(["--config=none"])
    return caught[0]


def parse(words: list[str], whole: bool, fit_parser: FitParser) -> None:
    """Parse a command to its end with its own parser, without running it.

    Args:
        words: behind `nesf`.
        whole: it must have all that is required.
        fit_parser: of `nesf fit`.

    Raises:
        InputError: something in it is wrong.
    """
    words = words[: next((i for i, word in enumerate(words) if END.fullmatch(word)), None)]
    name, rest = split_verb(words)
    assert name is not None, words
    if "--help" in rest:
        return
    if VERBS[name].raw:
        fit_parser.parse_args(["fit", *rest])
        return
    try:
        verb = VERBS[name]
        FunctionParser(verb.load(), f"nesf {name}", EXIT_CODES, verb.processes).parse(rest)
    except InputError as error:
        missing = re.search("missing: (.*)", str(error))
        if not whole and "expected one argument" in str(error):  # only the option is named
            parse([*words, "x"], whole, fit_parser)
        elif not whole and missing:
            more = [word for flag in missing[1].split(", ") for word in (flag, "x")]
            added = [word for word in more if word != "INPUT"]
            parse([*name.split(), *added, *rest], True, fit_parser)
        else:
            raise


def test_every_written_command_parses(
    fit_parser: FitParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    commands = dict.fromkeys((words, whole) for _, words, whole in written_commands())
    places = {words: place for place, words, _ in written_commands()}
    assert len(commands) > 50
    assert {"torchrun.sh", "finetune.yaml", "demo.yaml"} <= set(places.values())
    faults = []
    for words, whole in commands:
        try:
            parse(list(words), whole, fit_parser)
        except InputError as error:
            faults.append(f"{places[words]}: nesf {shlex.join(words)}: {error}")
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    "line",
    [
        "nesf fit --config configs/nesf/finetune.yaml --data.trian a.csv",
        "nesf fit --config configs/nesf/finetune.yaml --data.train a.csv --optim.lr 1",
        "nesf fit --config configs/nesf/none.yaml",
        "nesf reconstruct a.cif --modle general --output out/ # no such option",
        "nesf reconstruct a.cif --model general",
        "srun nesf reconstruct a.cif \\\n  --model general --output out/ --refine some",
        "nesf reconstrukt a.cif",
    ],
)
def test_a_wrong_command_does_not_parse(
    line: str, fit_parser: FitParser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = shell_commands(line)
    with pytest.raises(InputError):
        parse(words, True, fit_parser)


NAMED = re.compile(r"`((?:nesf|eval|baselines)(?:\.\w+)+)")  # modules and what is in them
FILES = re.compile(r"`([\w./-]+\.(?:py|sh|sbatch))`")
FOLDERS = (
    "nesf", "eval", "baselines", "benchmarks", "configs", "docs", "examples", "notebooks", "tests",
)  # fmt: skip
TEXTS = ".md", ".py", ".yaml", ".sh"  # documents, our own code, comments of configs


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or something in one, however deep."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            if part in getattr(found, "__dataclass_fields__", {}):
                return True
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_names_in_texts_are_those_of_the_code() -> None:
    ours = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
    there = {f"/{path.relative_to(ROOT).as_posix()}" for path in ours}
    stale, seen = set(), 0
    for path in (README, *(path for path in ours if path.suffix in TEXTS)):
        text = path.read_text()
        names, files = NAMED.findall(text), FILES.findall(text)
        seen += len(names) + len(files)
        stale |= {(path.name, name) for name in names if not resolves(name)}
        stale |= {
            (path.name, name)
            for name in files
            if not any(one.endswith(f"/{name}") for one in there)
        }
    assert not stale
    assert seen > 200
    assert not resolves("nesf.api.Module")
    assert not resolves("nesf.nothing")
