"""Lines of the package, tests and benchmarks by folder, and how many more than at another commit.

python .ci/lines.py [COMMIT]    default: where this branch left main; on main itself, main a day ago

A folder that grows by more than 300 lines says why in its commit.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import PurePath


def git(*command: str) -> str:
    """What git answers, or nothing where it cannot."""
    return subprocess.run(["git", *command], capture_output=True, text=True).stdout.strip()


def before() -> str:
    """The commit to compare with."""
    fork = git("merge-base", "HEAD", "main") or git("merge-base", "HEAD", "origin/main")
    if fork in ("", git("rev-parse", "HEAD")):
        fork = git("rev-list", "-1", "--before=1 day ago", "HEAD")
    return fork or git("rev-list", "--max-parents=0", "HEAD")


def lines(commit: str | None) -> Counter[str]:
    """Lines by folder, two deep, of a commit, or of the tracked files as they are."""
    counts: Counter[str] = Counter()
    where = [] if commit is None else [commit]
    for line in git("grep", "-c", "", *where, "--", "*.py").splitlines():
        path, count = line.removeprefix(f"{commit}:").rsplit(":", 1)
        counts["/".join(PurePath(path).parent.parts[:2]) or "."] += int(count)
    return counts


def main() -> None:
    """Print the table."""
    commit = sys.argv[1] if len(sys.argv) > 1 else before()
    now, then = lines(None), lines(commit)
    print(f"{'lines':32}{'now':>8}{'more than':>12} {git('rev-parse', '--short', commit)}")
    for folder in sorted(now | then):
        print(f"{folder:32}{now[folder]:8,}{now[folder] - then[folder]:+12,}")
    for room in ("qgf_ref", "tests", "benchmarks"):
        old, new = (sum(n for f, n in c.items() if f.split("/")[0] == room) for c in (then, now))
        print(f"{room + ', all':32}{new:8,}{new - old:+12,}")


if __name__ == "__main__":
    main()
