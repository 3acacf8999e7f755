"""Peak memory of one contender, in a process that does nothing else.

    python -m qgf_ref.bench.memory       job as JSON on standard input, bytes by batch on output

What is reported is how far the process's resident memory rises at most, while the sampler is made
and called twice, above what the process had with the libraries imported and the networks loaded.
Compilation counts. Read from /proc (Linux), whose peak is set back before each batch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from qgf_ref.bench.contenders import Declined, Factory, backend, first_call, peer
from qgf_ref.bench.settings import BenchSettings, Peer
from qgf_ref.bench.validation import random_inputs
from qgf_ref.processes import resident
from qgf_ref.threads import limited

_CLEAR = Path("/proc/self/clear_refs")


def measured(
    settings: BenchSettings, name: str, network: str, estimator: str, dtype: str, threads: int
) -> tuple[dict[str, int], str]:
    """Bytes by batch (as text) of one contender, from a process of its own, and "".

    Where /proc does not tell, or the process fails: nothing, and a note that says so.
    """
    job = {
        "settings": settings.asdict(), "name": name, "network": network, "estimator": estimator,
        "dtype": dtype, "threads": threads, "path": sys.path,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "qgf_ref.bench.memory"],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        cause = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {}, f"peak memory of {name} was not measured: {cause}"
    peaks: dict[str, int] = json.loads(lines[-1])
    return peaks, "" if peaks else "peak memory is measured on Linux only"


def in_this_process(job: dict[str, Any]) -> dict[str, int]:
    """The job itself. Empty where /proc does not tell."""
    settings = BenchSettings.from_dict(job["settings"])
    spec = {p.name: p.spec for p in settings.peers}.get(job["name"])
    factory: Factory = (
        backend(job["name"], job["threads"]) if spec is None else peer(Peer(job["name"], spec))
    )
    checkpoint = settings.load(job["network"]).astype(job["dtype"])
    steps = settings.denoise_steps or checkpoint.options.denoise_steps
    start = resident("VmRSS")
    if start is None or not _set_back():
        return {}
    peaks: dict[str, int] = {}
    try:
        run = factory(
            checkpoint, estimator=job["estimator"], weight=settings.weight, denoise_steps=steps
        )
        for batch in sorted(settings.batches):
            if settings.skips(job["name"], batch):
                continue
            obs, noise = random_inputs(checkpoint, batch, job["dtype"], settings.seed)
            for _ in range(2):
                first_call(job["name"], run, obs, noise)
            peak = resident("VmHWM")
            assert peak is not None
            peaks[str(batch)] = peak - start
            _set_back()
    except Declined:
        pass
    return peaks


def _set_back() -> bool:
    """Set VmHWM back to VmRSS; whether that worked."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def main() -> None:
    """Read the job, do it, print."""
    job = json.load(sys.stdin)
    sys.path.extend(entry for entry in job["path"] if entry not in sys.path)
    with limited(job["threads"], "blas"):
        print(json.dumps(in_this_process(job)))


if __name__ == "__main__":
    main()
