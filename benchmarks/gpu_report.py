"""What `gpu.py` measured, as tables and as a picture: written from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgf_ref.tables import markdown_table

OURS = "cupy"
TORCH = "PyTorch"
CLOCK = (
    "Milliseconds and what others take: by the host's clock, a call and the wait for its result, "
    "on both sides, since JAX's streams are out of reach of events. Shares of the two ceilings: by "
    "CUDA events on both sides. All clocks' numbers (`seconds`, `queued`, `events`), and ratios by "
    "each, are in the JSON."
)
ACCURACY = 1e-5
"""Of actions, against float64."""


def targets(content: dict[str, Any]) -> str:
    """What was to be reached, what was found, and whether that is enough; of what was measured."""
    parts = {name: part["rows"] for name, part in content["parts"].items()}
    ceilings = (parts.get("device") or [{}])[0]
    lines: list[tuple[str, float, float, bool]] = []  # what, wanted, found, whether less is better
    programs = [row for row in parts.get("check", []) if "estimator" in row and "tf32" not in row]
    if programs:
        lines.append(("error of an action", ACCURACY, max(map(_error, programs)), True))
        lines.append(("same bits twice", 1, float(all(r["same_bits"] for r in programs)), False))
    for row in parts.get("sampler", []):
        of, least = f"qgf, {row['network']}, batch {row['batch']}", _least(row)
        if row["batch"] == 1:
            lines += [(f"{of}: JAX takes", 3, least["JAX"], False)] if "JAX" in least else []
            if TORCH in least:
                lines.append((f"{of}: best PyTorch takes", 1.5, least[TORCH], False))
        if row["batch"] >= 4096 and row["network"] == "4x1024":
            lines += [(f"{of}: JAX takes", 1.25, least["JAX"], False)] if "JAX" in least else []
            share = shares(row, ceilings)[0]
            lines += [(f"{of}: of the products' rate", 0.75, share, False)] if share else []
    for row in parts.get("gradients", []):
        of, least = f"{row['estimator']}, {row['network']}, batch {row['batch']}", _least(row)
        other, wanted = {"bptt": ("JAX", 1.5)}.get(
            row["estimator"], ("JAX, official Jacobian", 10.0)
        )
        lines += [(f"{of}: {other} takes", wanted, least[other], False)] if other in least else []
    for row in parts.get("training", []):
        if row["preset"] == "paper" and "JAX" in row["ratios"]:
            lines.append(("paper's update: JAX takes", 1.3, row["ratios"]["JAX"]["median"], False))
    lines += [
        (f"{row['tool']} clean", 1, float(row["clean"]), False)
        for row in parts.get("sanitizer", [])
        if row["clean"] is not None
    ]
    return markdown_table(
        ["target", "wanted", "found", ""],
        [
            [what, f"{'≤' if less else '≥'} {wanted:g}", f"{found:.3g}",
             "reached" if (found <= wanted if less else found >= wanted) else "MISSED"]
            for what, wanted, found, less in lines
        ],
    )  # fmt: skip


def _least(row: dict[str, Any]) -> dict[str, float]:
    """How many times as long the peers take, and the best of PyTorch's modes."""
    found = {name: ratio["median"] for name, ratio in row["ratios"].items()}
    torch = [ratio for name, ratio in found.items() if name.startswith(TORCH)]
    return {**found, **({TORCH: min(torch)} if torch else {})}


def table(content: dict[str, Any]) -> str:
    """Markdown: every part that there is."""
    where = {"dry": "Not on a GPU: a dry run, whose times say nothing"}
    parts, text = content["parts"], [f"# {where.get(content['size'], 'On a GPU')}", ""]
    told = {"device": _device, "check": _check, "sampler": _sampler, "gradients": _sampler}
    told |= {"training": _training, "sanitizer": _sanitizer}
    ceilings = (parts.get("device", {}).get("rows") or [{}])[0]
    for name, lines in told.items():
        if name in parts and parts[name]["rows"]:
            made = parts[name]["provenance"]
            commits = dict.fromkeys(str(row["commit"]) for row in parts[name]["rows"])
            text += [f"## {name}", "", f"Commit {', '.join(commits)}, {made['time']}.", ""]
            text += [lines(parts[name]["rows"], ceilings), ""]
    return "\n".join(text) + "\n"


def _device(rows: list[dict[str, Any]], _: dict[str, Any]) -> str:
    row = rows[0]
    return (
        f"{row['name']}, {row['processors']} processors, CUDA {row['cuda']}, driver for "
        f"{row['driver']}, CuPy {row['cupy']}: copies {row['bandwidth'] / 1e12:.2f} TB/s (read and "
        f"written), float32 products {row['product_rate'] / 1e12:.1f} TFLOP/s."
    )


def _check(rows: list[dict[str, Any]], _: dict[str, Any]) -> str:
    kernels = [row for row in rows if "kernels" in row]
    programs = [row for row in rows if "estimator" in row and "tf32" not in row]
    rounded = [row for row in rows if "tf32" in row]
    text = []
    for dtype in ("float32", "float64"):
        if of_dtype := [row for row in kernels if row["dtype"] == dtype]:
            worst = max(of_dtype, key=_error)
            text.append(
                f"{len(of_dtype)} groups of kernels in {dtype}: the largest error is "
                f"{worst['error']:.1e} of the quantity's size ({worst['kernels']})."
            )
    if programs:
        worst = max(programs, key=_error)
        same = all(row["same_bits"] for row in programs)
        graphs = [row["graph"] for row in programs if row.get("graph") is not None]
        text.append(
            f"{len(programs)} programs against float64 NumPy: the largest error of an action is "
            f"{worst['error']:.1e} ({worst['estimator']}, {worst['network']}, {worst['rows']} "
            f"rows; NumPy's own float32 there {worst['numpy_float32']:.1e}); target "
            f"{ACCURACY:.0e}. The same bits twice: {'yes' if same else 'NO'}. Of {len(graphs)} "
            f"programs of many launches, {sum(graphs)} became CUDA graphs."
        )
    if rounded:
        worst = max(rounded, key=_error)
        text.append(
            f"With products in TF32, which none of the others has: {worst['error']:.1e} "
            f"({worst['estimator']}, {worst['network']}, {worst['rows']} rows)."
        )
    return " ".join(text)


def _error(row: dict[str, Any]) -> float:
    """NaN is the largest."""
    return float("inf") if row["error"] != row["error"] else float(row["error"])


def _sampler(rows: list[dict[str, Any]], ceilings: dict[str, Any]) -> str:
    header = ["", "network", "batch", "ms", "ms by events", "JAX takes", "JAX, TF32", "ours, TF32"]
    header += ["best PyTorch", "official"]
    header += ["of the products' rate", "of the copies'", "failed"]
    return f"{CLOCK}\n\n" + markdown_table(header, [_cells(row, ceilings) for row in rows])


def _cells(row: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    ratios = row["ratios"]
    torch = {n: r for n, r in ratios.items() if n.startswith(TORCH)}
    best = min(torch, key=lambda name: torch[name]["median"], default=None)
    return [
        row["estimator"],
        row["network"],
        str(row["batch"]),
        *(_ms(row.get(clock, {}).get(OURS)) for clock in ("seconds", "events")),
        *(_times(ratios.get(name)) for name in ("JAX", "JAX, TF32", "cupy, TF32")),
        f"{_times(torch[best])} {best.removeprefix(TORCH).strip()}" if best else "–",
        _times(ratios.get("JAX, official Jacobian")),
        *(_percent(share) for share in shares(row, ceilings)),
        "; ".join(f"{name}: {why[:60]}" for name, why in row["failed"].items()),
    ]


def shares(row: dict[str, Any], ceilings: dict[str, Any]) -> tuple[float | None, float | None]:
    """Of what the device's products and copies could do, what the program's floor takes: both by
    events, else both by the host's clock.
    """
    if not ceilings or OURS not in row["seconds"]:
        return None, None
    clock, most = "seconds", ceilings
    if OURS in row.get("events", {}) and "by_events" in ceilings:
        clock, most = "events", ceilings["by_events"]
    seconds = row[clock][OURS]["median"]
    operations = row["operations"] / seconds / most["product_rate"]
    return operations, row["bytes"] / seconds / most["bandwidth"]


def _ms(spread: dict[str, float] | None) -> str:
    return "–" if spread is None else f"{spread['median'] * 1e3:.3f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.0%}"


def _times(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _training(rows: list[dict[str, Any]], _: dict[str, Any]) -> str:
    header = ["preset", "updates/s", "JAX takes", "500,000 updates, projected", "failed"]
    return f"{CLOCK}\n\n" + markdown_table(
        header,
        [
            [
                row["preset"],
                f"{1 / row['seconds'][OURS]['median']:.0f}" if OURS in row["seconds"] else "–",
                _times(row["ratios"].get("JAX")),
                f"{row['projected_hours']:.1f} h" if "projected_hours" in row else "–",
                "; ".join(row["failed"].values()),
            ]
            for row in rows
        ],
    )


def _sanitizer(rows: list[dict[str, Any]], _: dict[str, Any]) -> str:
    words = {True: "clean", False: "NOT CLEAN", None: "did not run"}
    lines = [[row["tool"], words[row["clean"]], " ".join(row["said"])[:120]] for row in rows]
    return markdown_table(["tool", "", "said"], lines)


def write_figure(content: dict[str, Any], path: Path) -> None:
    """The roofline: products' rate over the batch, and the two ceilings."""
    rows = content["parts"].get("sampler", {}).get("rows")
    if not rows:
        return
    try:
        import matplotlib
    except ImportError:
        print("no matplotlib here: the picture can be made of the JSON elsewhere, by --merge")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for network in sorted({row["network"] for row in rows}):
        own = sorted(
            (row["batch"], row["operations"] / row["seconds"][OURS]["median"])
            for row in rows
            if row["network"] == network and OURS in row["seconds"]
        )
        if not own:
            continue
        axes.loglog(*zip(*own, strict=True), marker="o", label=network)
    ceilings = (content["parts"].get("device", {}).get("rows") or [None])[0]
    if ceilings:
        axes.axhline(ceilings["product_rate"], color="black", lw=1, label="float32 products")
    axes.set(xlabel="batch", ylabel="FLOP/s of the products", title=f"qgf on {_name(ceilings)}")
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def _name(ceilings: dict[str, Any] | None) -> str:
    return ceilings["name"] if ceilings else "a GPU"
