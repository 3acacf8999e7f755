"""What a measurement found: JSON, a Markdown page, and a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qgf_ref.bench.roofline import has_counts, roofline
from qgf_ref.files import write_atomically, write_json
from qgf_ref.plotting import can_draw, png
from qgf_ref.tables import Table, markdown_table, text_table

FILES = ("bench.json", "bench.md", "bench.png")

HOW_TO_READ = """Rounds of all contenders in turn; medians, in brackets 25%–75%.
`time ÷` is the time of a call over the first contender's, taken within each round.
GFLOP/s: matrix products only, those that the sampler needs (the official formulation asks for
more: `as stated`), and their share of the fastest 1024×1024 product of the same run.
`read`: kernels' bytes, once for each product, over the rate at which all threads read as many
bytes again and again; it is a ceiling at batch 1. Compile: what the first call at a batch takes
more than a later one. Peak memory: how far resident memory rises above imports and networks while
the sampler is made and called, in a process of its own (runtimes and compilation included).
Error: largest difference of an action (they lie in ±1) from the float64 NumPy reference, and what
rounding explains."""


def write_report(content: dict[str, Any], out: Path) -> None:
    """`FILES` in `out`, which exists; no figure without Matplotlib, or where nothing is counted."""
    write_json(out / FILES[0], content)
    write_atomically(out / FILES[1], markdown(content).encode())
    if can_draw() and has_counts(content["rows"]):
        write_atomically(out / FILES[2], png(roofline(content["rows"])))


def groups(rows: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Rows of the same estimator, dtype and threads, with a title."""
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault((row["estimator"], row["dtype"], row["threads"]), []).append(row)
    for (estimator, dtype, threads), own in grouped.items():
        plural = "" if threads == 1 else "s"
        yield f"{estimator}, {dtype}, {threads} thread{plural}", own


def text(content: dict[str, Any]) -> str:
    """A table of at most 100 columns for each estimator, dtype and number of threads, and notes."""
    parts = []
    for title, rows in groups(content["rows"]):
        parts.append(title + ", weight " + f"{content['settings']['weight']:g}")
        parts += [text_table(*_short(rows), left=(0, 2)), ""]
    return "\n".join([*parts, *notes(content)])


def markdown(content: dict[str, Any], figure: str = "bench.png") -> str:
    """The page: every number of the table, the ceilings, how to read it, the figure."""
    parts = ["# Samplers", "", HOW_TO_READ]
    if has_counts(content["rows"]):
        parts += ["", f"![roofline]({figure})"]
    for title, rows in groups(content["rows"]):
        parts += ["", f"## {title}", "", markdown_table(*_long(rows))]
        parts += ["", f"Ceilings: {rows[0]['gemm_peak_gflops']:.0f} GFLOP/s; reading "]
        reads = {r["weights_bytes"]: r["read_peak_gbytes"] for r in rows}
        sizes = {n: "64 MiB" if n is None else f"{n / 1e6:.1f} MB" for n in reads}
        parts[-1] += ", ".join(f"{sizes[n]} {rate:.0f} GB/s" for n, rate in reads.items())
        parts[-1] += "."
    if told := notes(content):
        parts += ["", *(f"* {note}" for note in told)]
    processor, blas = content["processor"], content["blas"]
    parts += ["", f"{processor}; {_blas(blas)}; commit {content['commit']}; {content['time']}."]
    return "\n".join(parts) + "\n"


def notes(content: dict[str, Any]) -> list[str]:
    """What was left out and why, and what a share above 100% means."""
    sentences = list(content["notes"])
    sentences += [f"left out: {message}" for message in content.get("refused", {}).values()]
    if over(content["rows"]):
        sentences.append(ABOVE)
    return sentences


ABOVE = (
    "A share above 100%: faster than BLAS's product of the same run (which ours can be), or the "
    "machine was not idle."
)


def over(rows: list[dict[str, Any]]) -> bool:
    """Whether a contender passes the ceiling, which is the best that BLAS's product did."""
    return any(
        entry.get("share_of_gemm_peak", 0) > 1
        for row in rows
        for entry in row["contenders"].values()
    )


def interval(values: dict[str, float], scale: float = 1.0, digits: int = 3) -> str:
    """Median (25%–75%)."""
    low, middle, high = (number(values[k] * scale, digits) for k in ("q25", "median", "q75"))
    return f"{middle} ({low}–{high})"


def number(x: float, digits: int = 3) -> str:
    """To `digits` figures, never as 1e+03."""
    return f"{x:.0f}" if abs(x) >= 10 ** (digits - 1) else f"{x:.{digits}g}"


def share(entry: dict[str, Any], name: str) -> str:
    """A share as a percentage, or a dash."""
    return f"{entry[name]:.0%}" if name in entry else "–"


def _short(rows: list[dict[str, Any]]) -> Table:
    header = ["network", "batch", "contender", "samples/s", "ms a call", "time ÷",
              "GFLOP/s", "peak", "read", "error"]  # fmt: skip
    lines = []
    for row in rows:
        for i, (name, entry) in enumerate(row["contenders"].items()):
            lines.append([
                row["network"] if i == 0 else "",
                str(row["batch"]) if i == 0 else "",
                name if len(name) <= 22 else "…" + name[-21:],
                number(entry["samples_per_second"]["median"]),
                number(entry["seconds"]["median"] * 1e3),
                number(entry["slower_than_first"]["median"]),
                number(entry["gflops_necessary"]) if "gflops_necessary" in entry else "–",
                share(entry, "share_of_gemm_peak"),
                share(entry, "share_of_read_peak") if row["batch"] == 1 else "",
                f"{entry['error']:.0e}",
            ])  # fmt: skip
    return header, lines


def _long(rows: list[dict[str, Any]]) -> Table:
    header = ["network", "batch", "contender", "samples/s", "ms a call", "time ÷", "GFLOP/s",
              "as stated", "peak", "read", "compile", "peak memory", "error"]  # fmt: skip
    lines = []
    for row in rows:
        for name, entry in row["contenders"].items():
            memory = entry.get("peak_memory_bytes")
            counted = "gflops_necessary" in entry
            lines.append([
                row["network"],
                str(row["batch"]),
                name,
                number(entry["samples_per_second"]["median"]),
                interval(entry["seconds"], 1e3),
                interval(entry["slower_than_first"]),
                number(entry["gflops_necessary"]) if counted else "–",
                number(entry["gflops_nominal"]) if counted else "–",
                share(entry, "share_of_gemm_peak"),
                share(entry, "share_of_read_peak") if row["batch"] == 1 else "",
                f"{entry['compile_seconds']:.2f} s",
                "–" if memory is None else f"{memory / 1e6:.1f} MB",
                f"{entry['error']:.0e} (≤ {entry['tolerance']:.0e})",
            ])  # fmt: skip
    return header, lines


def _blas(libraries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{b['internal_api']} {b['version']}" for b in libraries) or "BLAS unknown"
