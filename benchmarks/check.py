"""Results made again: a small stated sample of benchmarks/results, in a temporary folder.

    python benchmarks/all.py --check                        what is listed below: three minutes
    python benchmarks/all.py --check study_prefix           one of them
    python benchmarks/all.py --check all --data data        with the data set, for what trains

verification         all of it: golden files, closed forms, 50 digits
study_prefix         all of it
fig5                 its tables, from its result files
embedded_checkpoint  the first 1,000 of the 30,000 updates of the run inside the package
success_embedded     its held-out episodes by cloning and by qgf

Every number is compared with the one that is kept. Exit code: 0; 1 if one differs by more than is
allowed, which is listed, or cannot be made; 2 on an unknown name, 130 on Ctrl-C.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.golden import GOLDEN  # noqa: E402
from qgf_ref import load  # noqa: E402
from qgf_ref.data.datasets import has_dataset  # noqa: E402
from qgf_ref.evaluation.methods import parse_methods  # noqa: E402
from qgf_ref.evaluation.protocol import evaluate  # noqa: E402
from qgf_ref.evaluation.report import summary  # noqa: E402
from qgf_ref.evaluation.settings import Settings  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
QGF_REF = (sys.executable, "-m", "qgf_ref")
ORIGIN = re.compile(
    r"(provenance|versions|blas|numpy_cpu|time|python|platform|processor|cores|commit|source|"
    r"\w*seconds|\w*milliseconds\w*|sampling_share)(\.|$)"
)
"""What tells who made a result, where and how fast: compared with nothing."""
SHOWN = 5
Values = dict[str, Any]
"""{where it stands: a number, a word, or None}."""


class CannotCheck(Exception):
    """What a sample needs is not here; says what."""


class CannotMake(Exception):
    """A command that makes a sample failed; says how."""


@dataclass(frozen=True)
class Allowed:
    """How far a remade number may be from the kept one: relative + absolute. why: as measured."""

    relative: float
    absolute: float
    why: str
    rounding: str = r"(?!)"
    """Which of them, by a pattern, are errors of rounding: these may be ten times what was kept."""

    def admits(self, where: str, kept: Any, made: Any) -> bool:
        """Whether a remade value is as good as the kept one."""
        numbers = [isinstance(v, (int, float)) and not isinstance(v, bool) for v in (kept, made)]
        if not all(numbers):
            return bool(kept == made)
        if re.search(self.rounding, where):
            return bool(made <= 10 * kept)
        return bool(abs(made - kept) <= self.relative * abs(kept) + self.absolute)


@dataclass(frozen=True)
class Sample:
    """A part of results/ that is made again.

    what  in words, for the list
    make  (an empty directory, where data sets are) → what is kept, and the same remade; raises
          CannotCheck
    """

    name: str
    what: str
    allowed: Allowed
    make: Callable[[Path, str | None], tuple[Values, Values]]


def values_of(path: Path) -> Values:
    """Every value of a JSON or CSV file by where it stands, without those that tell its origin."""
    text = path.read_text()
    if path.suffix == ".json":
        return {k: v for k, v in _leaves(json.loads(text)) if not ORIGIN.search(k)}
    lines = csv.DictReader(io.StringIO(text))
    return {
        f"row {i} {column}": _number(cell)
        for i, line in enumerate(lines, 1)
        for column, cell in line.items()
        if not ORIGIN.search(column)
    }


def differences(kept: Values, made: Values, allowed: Allowed) -> list[str]:
    """What is missing, new, or further away than allowed, in words."""
    found = [f"{where}: {kept[where]} is missing" for where in kept if where not in made]
    found += [f"{where}: {made[where]} is new" for where in made if where not in kept]
    found += [
        f"{where}: {kept[where]} is kept, {made[where]} was made"
        for where in kept
        if where in made and not allowed.admits(where, kept[where], made[where])
    ]
    return found


def largest(kept: Values, made: Values) -> str:
    """The largest relative difference between numbers, and where it is, in words."""
    apart = {
        where: abs(made[where] - value) / max(abs(value), abs(made[where]))
        for where, value in kept.items()
        if isinstance(value, (int, float)) and made[where] != value
    }
    if not apart:
        return "all the same"
    most = max(apart, key=lambda where: apart[where])
    return f"largest relative difference {apart[most]:.1e}, {most}"


def check(names: list[str], data: str | None) -> int:
    """Make samples again and say how each compares; the exit code."""
    every = {sample.name: sample for sample in SAMPLES}
    for name in names:
        if name not in (*every, "all"):
            print(f"nothing of {name!r} is made again; of {', '.join(every)} is", file=sys.stderr)
            return 2
    code = 0
    for sample in SAMPLES if "all" in names or not names else [every[n] for n in names]:
        print(f"{sample.name}: {sample.what} …", flush=True)
        with TemporaryDirectory() as place:
            try:
                kept, made = sample.make(Path(place), data)
            except CannotCheck as error:
                print(f"  not checked: {error}")
                continue
            except CannotMake as error:
                print(f"  FAILED: {error}")
                code = 1
                continue
        found = differences(kept, made, sample.allowed)
        if not found:
            print(f"  {len(kept)} values: as kept ({sample.allowed.why}); {largest(kept, made)}")
            continue
        code = 1
        print(f"  DIFFERS: {len(found)} of {len(kept)} values ({sample.allowed.why})")
        print("".join(f"    {line}\n" for line in found[:SHOWN]), end="")
        if len(found) > SHOWN:
            print(f"    and {len(found) - SHOWN} more")
    return code


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMake(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2000:]}")


def _verification(place: Path, data: str | None) -> tuple[Values, Values]:
    if not GOLDEN.is_dir():
        raise CannotCheck(f"no golden files at {GOLDEN}")
    _run(sys.executable, "benchmarks/verify.py", "--results", str(place))
    file = "verification.json"
    return values_of(RESULTS / file), values_of(place / file)


def _study_prefix(place: Path, data: str | None) -> tuple[Values, Values]:
    _run(*QGF_REF, "study", "prefix", "--out", str(place / "study"))
    file = "study_prefix.csv"
    return values_of(RESULTS / file), values_of(place / "study" / file)


def _fig5(place: Path, data: str | None) -> tuple[Values, Values]:
    from qgf_ref.sweeps.place import SweepPlace
    from qgf_ref.sweeps.report import begin, write_tables
    from qgf_ref.sweeps.spec_file import read_spec

    shutil.copytree(RESULTS / "fig5" / "results", place / "results")
    write_tables(begin(read_spec(ROOT / "benchmarks/sweeps/fig5.toml"), SweepPlace(place), None))
    return values_of(RESULTS / "fig5" / "table.json"), values_of(place / "table.json")


def _embedded_checkpoint(place: Path, data: str | None) -> tuple[Values, Values]:
    kept = json.loads((RESULTS / "embedded_checkpoint.json").read_text())
    config = {**kept["training"]["config"], "updates": 1000, "data": data}
    if not has_dataset("cube-single-play-v0", data):
        raise CannotCheck("no data set cube-single-play-v0 here: give --data")
    (place / "config.json").write_text(json.dumps(config))
    _run(*QGF_REF, "train", "--config", str(place / "config.json"), "--out", str(place / "run"))
    (place / "kept.csv").write_text("\n".join(kept["metrics"][:2]))
    both = values_of(place / "kept.csv"), values_of(place / "run" / "metrics.csv")
    # batches for validation are drawn otherwise since 653bc98
    trained: list[Values] = [{k: v for k, v in e.items() if "validation" not in k} for e in both]
    return trained[0], trained[1]


def _success_embedded(place: Path, data: str | None) -> tuple[Values, Values]:
    kept = json.loads((RESULTS / "success_embedded.json").read_text())
    rows = {row["method"]: row for row in kept["rows"]}
    settings = Settings(
        parse_methods(["bc", "qgf"]), weights=(rows["qgf"]["weights"][0],), workers=2,
        episodes=kept["tasks"][0]["settings"]["episodes"], selection_episodes=1,
    )  # fmt: skip
    checkpoint = load(dtype="float32")
    made = summary(evaluate([checkpoint], kept["tasks"][0]["task"], settings))["rows"]
    compared = ("success", "mean_return", "mean_length")
    named: list[Values] = [
        {f"{m} {c}": row[c] for m, row in each.items() if m in ("bc", "qgf") for c in compared}
        for each in (rows, {row["method"]: row for row in made})
    ]
    return named[0], named[1]


def _leaves(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{where}.{i}")
    else:
        yield where, value


def _number(cell: str | None) -> Any:
    try:
        return float(cell or "")
    except ValueError:
        return cell


SAMPLES = (
    Sample(
        "verification",
        "golden files, closed forms, 50 digits",
        # the same bits on an EPYC and a Xeon; other versions of NumPy may round otherwise
        Allowed(1e-6, 0.0, "closed forms to 1e-6, errors of rounding to ten times", r"^(?!conv)"),
        _verification,
    ),
    Sample(
        "study_prefix",
        "all of it",
        # 5e-5 between these two: a distance near zero is a difference of numbers near one
        Allowed(3e-4, 1e-9, "to 3e-4"),
        _study_prefix,
    ),
    Sample("fig5", "its tables, from its result files", Allowed(1e-12, 0.0, "to 1e-12"), _fig5),
    Sample(
        "embedded_checkpoint",
        "the first 1,000 updates of the run inside the package",
        # 2e-7 between these two: float32, and BLAS of other instruction sets
        Allowed(2e-6, 0.0, "to 2e-6"),
        _embedded_checkpoint,
    ),
    Sample(
        "success_embedded",
        "held-out episodes by cloning and by qgf",
        # none between these two, with the same MuJoCo
        Allowed(0.0, 0.0, "the same, episode by episode"),
        _success_embedded,
    ),
)
