"""The pages' small tables, and their sentences with numbers: worked out from benchmarks/results.

Nothing in them is typed in, so that a result that changes changes what the pages say of it.
"""

from __future__ import annotations

import csv
import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.findings import FINDINGS
from benchmarks.reading import RESULTS, goal_curve, interval, mean_curves, suite
from qgf_ref.bench.report import number
from qgf_ref.tables import markdown_table

HEADLINE = "cube-single"
"""The suite of the README's table."""
OURS, JAX, PYTORCH = "numba", "JAX", ("PyTorch", "PyTorch compiled", "PyTorch autotuned")
DEPLOYED = ("ONNX Runtime", "OpenVINO")
AIM = 1.5
"""How many times as fast as the others the compiled sampler is meant to be."""
README_NETWORK, README_BATCHES = "4x512", (1, 256, 4096)


def page_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table as a section of a page."""
    return markdown_table(header, rows) + "\n"


def longer_sentence() -> str:
    """What three times the updates change in Fig. 5."""
    short, long = (
        {r["method"]: r["success"] for r in json.loads(path.read_text())["rows"]}
        for path in (RESULTS / name / "table.json" for name in ("fig5", "fig5_longer"))
    )
    named = {"bc": "cloning", "qgf": "QGF", "edp": "EDP", "fql": "FQL", "dac": "DAC"}
    steps = [f"{word} {short[m]:.2f} → {long[m]:.2f}" for m, word in named.items()]
    return f"Success with three times the updates: {', '.join(steps)}; QSM {long['qsm']:.2f}.\n"


def critics_table() -> str:
    """Fig. 10: QGF under each critic, at every weight and at the chosen one."""
    rows = []
    for kept in json.loads((RESULTS / "fig10" / "table.json").read_text())["rows"]:
        critic = kept["method"].removesuffix(" qgf")
        (path,) = (RESULTS / "fig10" / "results").glob(f"*/{critic}.json")
        cells = json.loads(path.read_text())["cells"]
        (held_out,) = (cell for cell in cells if cell["split"] == "held-out")
        tried = {
            cell["weight"]: [win for seed in cell["by_seed"] for win in seed["wins"]]
            for cell in cells
            if cell["split"] == "selection"
        }
        curve = " ".join(f"{sum(wins) / len(wins):.1f}" for _, wins in sorted(tried.items()))
        rows.append(
            [
                f"`{critic}`",
                f"**{kept['success']:.2f}** ({kept['success_low']:.2f}–{kept['success_high']:.2f})",
                f"{held_out['weight']:g}",
                curve,
                f"{held_out['critic_bias']:+.1f}".replace("-", "−"),
                f"{held_out['critic_rank']:.2f}",
            ]
        )
    weights = " ".join(f"{weight:g}" for weight in sorted(tried))
    header = ["critic", "success (95%)", "w", f"selection, at {weights}", "Q − return", "rank"]
    return page_table(header, rows)


def cost_table(sweep: str) -> str:
    """What a sweep's training and samplers cost: its costs.csv."""
    with (RESULTS / sweep / "costs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    header = [
        "method", "updates", "training, TFLOP", "training, s", "a chunk, MFLOP", "a chunk, ms",
    ]  # fmt: skip
    return page_table(
        header,
        [
            [
                f"`{row['method']}`",
                f"{int(row['updates']):,}",
                f"{float(row['training_flops']) / 1e12:.1f}",
                f"{float(row['training_seconds']):,.0f}",
                f"{float(row['flops_per_chunk']) / 1e6:.2f}",
                f"{float(row['milliseconds_per_chunk']):.2f}",
            ]
            for row in rows
        ],
    )


def code(names: Iterable[str]) -> str:
    """`a`, `b`."""
    return ", ".join(f"`{name}`" for name in names)


def success_table(name: str = HEADLINE) -> str:
    """Success on held-out episodes, as the README shows it."""
    rows = suite(name)
    return page_table(
        ["method", "success (95%)", "training seeds", "weight", "Q − return"],
        [
            [
                f"`{method}`",
                f"**{row['success']:.2f}** ({row['success_low']:.2f}–{row['success_high']:.2f})",
                f"{row['seeds_low']:.2f}–{row['seeds_high']:.2f}",
                " ".join(f"{w:g}" for w in sorted({w for w in row["weights"] if w})),
                f"{row['critic_bias']:+.1f}".replace("-", "−"),
            ]
            for method, row in rows.items()
        ],
    )


def _bullets(sentences: Iterable[str]) -> str:
    """A list of wrapped sentences."""
    wrapped = (
        textwrap.fill(text, 116, initial_indent="* ", subsequent_indent="  ") for text in sentences
    )
    return "\n".join(wrapped) + "\n"


def _against(row: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Whether a success is above another, by their intervals."""
    if row["success_low"] > other["success_high"]:
        return "above"
    return "below" if row["success_high"] < other["success_low"] else "not told apart from"


def success_sentences(name: str = HEADLINE, first: int | None = None) -> str:
    """What the suite's numbers say, or the first few sentences of it."""
    rows, curves = suite(name), mean_curves(name)
    success = {method: interval(row, "success") for method, row in rows.items()}
    most = max(max(curve) for curve in curves.values() if len(curve) > 1)
    left = max(curve[most] for curve in curves.values() if most in curve)
    alike = [m for m in rows if m != "qgf" and _against(rows[m], rows["qgf"]).startswith("not")]
    qgf = curves["qgf"]
    peak = max(qgf, key=lambda w: qgf[w])
    later = min(w for w in qgf if w > 5 * peak)
    return _bullets(
        (
            f"`qgf` lifts behaviour cloning from {success['bc']} to {success['qgf']} without any "
            f"training of its own. Too large a weight destroys it: at w = {most:g} no method keeps "
            f"more than {left:.2f}.",
            f"Not told apart from `qgf` by their intervals: {code(alike)}. They differ in the "
            f"weight they want: `qgf` peaks at w = {peak:g} ({qgf[peak]:.2f} on the selection "
            f"episodes) and has {qgf[later]:.2f} left at {later:g}.",
            f"16 draws ({success['bfn-16']}) are {_against(rows['bfn-16'], rows['bfn-4'])} 4 "
            f"({success['bfn-4']}); `qgf+bfn-4` ({success['qgf+bfn-4']}) is "
            f"{_against(rows['qgf+bfn-4'], rows['qgf'])} `qgf`. A maximum over draws seeks the "
            "critic's errors out, and the critic overrates what is executed (Q − return).",
            "The intervals are over episodes. Few training seeds say little about training: see "
            "their range.",
        )[:first]
    )


def goals_sentences() -> str:
    """What the suites on goals say: of guidance, of its weight, of the critic."""
    rows, curves = suite("goals"), mean_curves("goals")
    success = {method: interval(row, "success") for method, row in rows.items()}
    alike = [m for m in rows if m != "qgf" and _against(rows[m], rows["qgf"]).startswith("not")]
    qgf, by_goal = curves["qgf"], goal_curve("goals", "qgf")
    peak = max(qgf, key=lambda w: qgf[w])
    below, above = (max(w for w in qgf if w < peak / 2), min(w for w in qgf if w > 2 * peak))
    most = max(qgf)
    last = ", ".join(f"`{m}` {c[most]:.2f}" for m, c in curves.items() if len(c) > 1)
    return _bullets(
        (
            f"`qgf` lifts cloning from {success['bc']} to {success['qgf']}, by a critic that was "
            "trained for all goals together, on a flow that never saw one. Not told apart from it "
            f"by their intervals: {code(alike)}. The best of 16 draws reaches {success['bfn-16']}.",
            f"One weight serves all goals: at w = {peak:g} `qgf` reaches {min(by_goal[peak]):.2f} "
            f"or more of each goal's selection episodes. Its range is narrow: "
            f"{qgf[below]:.2f} of all at {below:g}, {qgf[above]:.2f} at {above:g}. At the largest, "
            f"{most:g}: {last}.",
        )
    )


def guides_sentences() -> str:
    """Logits beside probabilities, the online critic beside the target."""
    own = suite("goals")["qgf"]
    said = []
    for name, what in (
        ("goals-probability", "The probability instead of its logit"),
        ("goals-target", "The target critic instead of the online one"),
    ):
        other, curve = suite(name)["qgf"], mean_curves(name)["qgf"]
        wide = [w for w in curve if curve[w] >= 0.75 * max(curve.values())]
        said.append(
            f"{what}: {interval(other, 'success')} at w = {other['weights'][0]:g}, "
            f"{_against(other, own)} {interval(own, 'success')} by their intervals. Three quarters "
            f"of its best on the selection episodes or more at {' '.join(f'{w:g}' for w in wide)}."
        )
    return _bullets(said)


def goals_critic_sentences() -> str:
    """How far the critic of goals is from what happened."""
    rows = suite("goals")
    return _bullets(
        (
            f"The critic overrates what cloning does with its chunks (ECE "
            f"{rows['bc']['critic_ece']:.2f}), as it must: it values a chunk by what good actions "
            f"after it would earn. Of `qgf`, which goes on well, it is nearly right "
            f"({rows['qgf']['critic_ece']:.2f}): a little too high where it is unsure, not where "
            "it is sure.",
        )
    )


def _times(row: Mapping[str, Any], names: Sequence[str]) -> tuple[float, str] | None:
    """How many times as long the fastest of these contenders takes, and which it is."""
    each = [
        (row["contenders"][name]["slower_than_first"]["median"], name)
        for name in names
        if name in row["contenders"]
    ]
    return min(each) if each else None


def _speed(name: str = "speed") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((RESULTS / f"{name}.json").read_text())["rows"]
    return rows


def speed_table() -> str:
    """Some cells of the speed table, as the README shows them."""
    chosen = [
        row
        for row in _speed()
        if row["network"] == README_NETWORK and row["batch"] in README_BATCHES
    ]
    cells = []
    for row in chosen:
        ours = row["contenders"][OURS]
        jax, torch = _times(row, [JAX]), _times(row, PYTORCH)
        cells.append(
            [
                f"`{row['estimator']}`",
                str(row["batch"]),
                number(ours["samples_per_second"]["median"]),
                number(1e3 * ours["seconds"]["median"]),
                f"{jax[0]:.2f}" if jax else "–",
                f"{torch[0]:.2f}" if torch else "–",
            ]
        )
    header = ["estimator", "batch", "actions/s", "ms a call", "× JAX", "× PyTorch"]
    return page_table(header, cells)


def speed_sentences(name: str = "speed") -> str:
    """How much faster everywhere, where it is less than meant, and how near the machine."""
    rows = _speed(name)
    ranges, short = [], []
    rivals = {JAX: [JAX], "PyTorch in its fastest mode": PYTORCH, **{n: [n] for n in DEPLOYED}}
    for title, names in rivals.items():
        ratios = [(found[0], row) for row in rows if (found := _times(row, names))]
        if not ratios:
            continue
        ranges.append(
            f"{min(r for r, _ in ratios):.3g} to {max(r for r, _ in ratios):.3g} times as fast as "
            f"{title}"
        )
        below = [(ratio, row) for ratio, row in ratios if ratio < AIM]
        if below:
            ratio, row = min(below, key=lambda pair: pair[0])
            where = f"`{row['estimator']}` {row['network']} at batch {row['batch']}"
            short.append(f"{len(below)} beside {title} (least {ratio:.2f}, {where})")
    read = [r["contenders"][OURS]["share_of_read_peak"] for r in rows if r["batch"] == 1]
    products = [r["contenders"][OURS]["share_of_gemm_peak"] for r in rows if r["batch"] >= 64]
    return _bullets(
        (
            f"Over all {len(rows)} cells `numba` is {', '.join(ranges)}. "
            f"Less than {AIM:g} times: {'; '.join(short) or 'none'}.",
            f"At batch 1 it reaches {min(read):.0%} to {max(read):.0%} of the machine's reading "
            f"rate; from batch 64 on, {min(products):.0%} to {max(products):.0%} of its fastest "
            "matrix product.",
        )
    )


def crosscheck_sentence(bank: int) -> str:
    """How well the cross-check diagnoses real ports, in a sentence."""
    content = json.loads((RESULTS / "crosscheck.json").read_text())
    parts = []
    for how in ("traces", "final actions alone"):
        counts = []
        for framework in ("JAX", "PyTorch"):
            broken = [
                entry
                for entry in content["confusion"][f"{framework}, {how}"]
                if not entry["mistake"].startswith("unknown")
            ]
            alone = sum(entry["verdict"] == "named" for entry in broken)
            counts.append(f"{alone} of {len(broken)} ({framework})")
        parts.append(f"from {how} {' and '.join(counts)}")
    correct = [entry for ports in content["correct"].values() for entry in ports]
    alarms = sum(entry["alarm"] for entry in correct)
    text = (
        f"Of the bank's {bank} mistakes, those made in real ports are named alone {parts[0]}, "
        f"{parts[1]}. Of {len(correct)} correct ports, {alarms} get an alarm."
    )
    return textwrap.fill(text, 116) + "\n"


def findings_short() -> str:
    """A row a claim: what our numbers say of it, and the command."""
    return page_table(
        ["claim", "here", "command"],
        [
            [f.claim, f"**{f.verdict}**", f"`{f.command}`"]
            for f in (finding(RESULTS) for finding in FINDINGS)
        ],
    )


def findings_of(command: str) -> str:
    """The claims that a command decides: verdict and evidence."""
    those = [f for f in (finding(RESULTS) for finding in FINDINGS) if f.command == command]
    return _bullets(f"{f.claim}: **{f.verdict}**. Evidence: {f.evidence}." for f in those)
