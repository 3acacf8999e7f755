"""What `gpu.py` measured, as tables and as a picture: written from its JSON alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qgf_ref.tables import markdown_table

OURS = "cupy"
TORCH = "PyTorch"


def table(content: dict[str, Any]) -> str:
    """Markdown: every part that there is."""
    parts, text = content["parts"], ["# On a GPU", ""]
    told = {"device": _device, "check": _check, "sampler": _sampler, "gradients": _sampler}
    told |= {"training": _training, "sanitizer": _sanitizer}
    ceilings = (parts.get("device", {}).get("rows") or [{}])[0]
    for name, lines in told.items():
        if name in parts and parts[name]["rows"]:
            made = parts[name]["provenance"]
            text += [f"## {name}", "", f"Commit {made['commit']}, {made['time']}.", ""]
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
    worst = max(rows, key=lambda row: row["error"])
    same = all(row["same_bits"] for row in rows)
    return (
        f"{len(rows)} cases against float64 NumPy: the largest error of an action is "
        f"{worst['error']:.1e} ({worst['estimator']}, {worst['network']}, {worst['rows']} rows; "
        f"NumPy's own float32 there {worst['numpy_float32']:.1e}); target 1e-5. The same bits "
        f"twice: {'yes' if same else 'NO'}."
    )


def _sampler(rows: list[dict[str, Any]], ceilings: dict[str, Any]) -> str:
    header = ["", "network", "batch", "ms", "JAX takes", "JAX, TF32", "best PyTorch", "official"]
    header += ["of the products' rate", "failed"]
    return markdown_table(header, [_cells(row, ceilings) for row in rows])


def _cells(row: dict[str, Any], ceilings: dict[str, Any]) -> list[str]:
    ratios, ours = row["ratios"], row["seconds"].get(OURS)
    torch = {n: r for n, r in ratios.items() if n.startswith(TORCH)}
    best = min(torch, key=lambda name: torch[name]["median"], default=None)
    share = row["operations_rate"] / ceilings["product_rate"] if ceilings else None
    return [
        row["estimator"],
        row["network"],
        str(row["batch"]),
        f"{ours['median'] * 1e3:.3f}" if ours else "–",
        *(_times(ratios.get(name)) for name in ("JAX", "JAX, TF32")),
        f"{_times(torch[best])} {best.removeprefix(TORCH).strip()}" if best else "–",
        _times(ratios.get("JAX, official Jacobian")),
        "–" if share is None else f"{share:.0%}",
        "; ".join(f"{name}: {why[:60]}" for name, why in row["failed"].items()),
    ]


def _times(ratio: dict[str, float] | None) -> str:
    if ratio is None:
        return "–"
    return f"{ratio['median']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def _training(rows: list[dict[str, Any]], _: dict[str, Any]) -> str:
    header = ["preset", "updates/s", "JAX takes", "500,000 updates, projected", "failed"]
    return markdown_table(
        header,
        [
            [
                row["preset"],
                f"{1 / row['seconds'][OURS]['median']:.0f}",
                _times(row["ratios"].get("JAX")),
                f"{row['projected_hours']:.1f} h",
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
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for network in sorted({row["network"] for row in rows}):
        own = sorted((r["batch"], r["operations_rate"]) for r in rows if r["network"] == network)
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
