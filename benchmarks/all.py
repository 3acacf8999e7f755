"""Every result in benchmarks/results: the command that makes it, its minutes, and its age.

    python benchmarks/all.py                          the list, in the order in which to make them
    python benchmarks/all.py --run startup speed      make these again
    python benchmarks/all.py --run all --data DIR     everything, about ten hours
    python benchmarks/all.py --check --data DIR       a small sample again, and compared
    python benchmarks/all.py --age                    commits and changed lines since each was made

--run goes on where it was stopped: what it finished with the code as it is now is not made again
(unless --again), a command that fails does not stop the others, and is told at the end. Exit
code: 1 then, 2 on bad input, 130 on Ctrl-C. What it made is noted in qgf_results.json beside this
repository's README.

A result's age counts the lines, added and removed, of the modules that it measures, between the
commit that made it and now. benchmarks/README.md holds the list and the ages at a commit it states.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.check import check  # noqa: E402
from benchmarks.command import code_of, content_of  # noqa: E402
from benchmarks.result_list import (  # noqa: E402
    DATA,
    RESULTS_IN_ORDER,
    RUNS,
    Result,
    result,
)
from benchmarks.success import RUNS_OF  # noqa: E402
from qgf_ref.errors import InputError  # noqa: E402
from qgf_ref.files import user_path, write_json  # noqa: E402
from qgf_ref.tables import markdown_table  # noqa: E402

MADE = ROOT / "qgf_results.json"
"""{result: `code()` by which `run` finished it}."""


def shown(command: str) -> str:
    """A command as pages show it: without what only this repository's runs need."""
    return (
        command.replace(DATA, "")
        .replace(RUNS, "")
        .replace(" --out benchmarks/results --overwrite", "")
    )


def minutes(entry: Result) -> str:
    """How long it took: training and evaluation of a suite together; +: at least."""
    content, more = entry.content, ""
    seconds = content.get("seconds", 0.0) or 60 * (entry.minutes or 0)
    seconds += content.get("sweep_seconds", 0.0)  # of a study that trains: of all its jobs
    if "tasks" in content:
        seconds = sum(task["seconds"] for task in content["tasks"])
        more = "+" if seconds < 60 else ""  # episodes taken from the records of an earlier session
        if content["suite"] not in RUNS_OF:
            sessions = (s for run in content["training"] for s in run["sessions"])
            seconds += sum(session["seconds"] for session in sessions)
    return f"{max(1, round(seconds / 60))}{more}" if seconds else "?"


def made(entry: Result) -> str:
    """The commits that made it, when, and where."""
    origin = entry.origin
    commits = " and ".join(f"`{commit}`" for commit in entry.commits)
    changes = " with changes" if " " in origin["commit"] else ""
    machine = f"{origin['processor']}, {origin['cores']} cores"
    return f"{commits}{changes}, {origin['time'][:10]}, {machine}"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def head() -> str:
    """The newest commit of this branch that main has, since others may be rebased away."""
    newest = _git("merge-base", "HEAD", "main") if known("main") else _git("rev-parse", "HEAD")
    return newest[:7]


def known(commit: str) -> bool:
    """Whether this repository's history holds the commit."""
    try:
        _git("cat-file", "-e", f"{commit}^{{commit}}")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


@functools.cache
def _changes(since: str, until: str) -> tuple[tuple[str, int], ...]:
    """Lines added and removed between two commits, by the file's present path."""
    fields = _git(
        "diff", "--numstat", "-z", "-M50%", "-l0", "--diff-algorithm=myers", "--no-ext-diff",
        since, until, "--", "qgf_ref",
    ).split("\0")  # fmt: skip
    lines, at = [], 0
    while at < len(fields) - 1:
        added, removed, path = fields[at].split("\t")
        if not path:  # a file that moved: its old path and its new one follow
            path, at = fields[at + 2], at + 2
        if path.endswith(".py") and added != "-":
            lines.append((path, int(added) + int(removed)))
        at += 1
    return tuple(lines)


def age(entry: Result, until: str) -> tuple[int, int]:
    """Commits, and changed lines of what it measures, from its (oldest) making to `until`."""
    rooms = tuple(f"qgf_ref/{room}" for room in entry.measures)
    counted = [
        (
            int(_git("rev-list", "--count", f"{since}..{until}")),
            sum(
                n
                for path, n in _changes(since, until)
                if any(path == room or path.startswith(f"{room}/") for room in rooms)
            ),
        )
        for since in entry.commits
    ]
    return max(counted)


def age_text(entry: Result, until: str) -> str:
    """The same in words; also where this history does not hold a commit that made it."""
    if not all(map(known, entry.commits)):
        return "not in this history"
    commits, changed = age(entry, until)
    return f"{commits}, {changed}"


def index(until: str) -> str:
    """The table of benchmarks/README.md: every result, and its age at commit `until`."""
    rows = []
    for entry in RESULTS_IN_ORDER:
        commands = "; ".join(f"`{shown(command)}`" for command in entry.commands)
        shown_file = f"{entry.name}/table.md" if entry.swept else entry.file
        link = f"[{entry.name}](results/{shown_file})"
        rows.append([link, commands, minutes(entry), made(entry), age_text(entry, until)])
    header = ["result", "made by", "minutes", "commit, day, machine", "since: commits, lines"]
    return f"{markdown_table(header, rows)}\n\nSince: until commit `{until}`.\n"


def code() -> str:
    """What decides results, as one word: the digest of the package and of these benchmarks."""
    sha = hashlib.sha256()
    for path in sorted(p for f in ("qgf_ref", "benchmarks") for p in (ROOT / f).rglob("*")):
        if path.suffix in (".py", ".toml", ".cu", ".safetensors"):
            sha.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return sha.hexdigest()[:16]


def run(names: list[str], data: str | None, *, again: bool = False) -> int:
    """Make these results, in their order; the exit code, 1 where a command failed.

    Those that an earlier call finished with the same code are left out, unless `again`.
    """
    chosen = set(names) if names != ["all"] else {entry.name for entry in RESULTS_IN_ORDER}
    for name in chosen:
        result(name)
    done = content_of(MADE)
    failed, now = [], code()
    for entry in (entry for entry in RESULTS_IN_ORDER if entry.name in chosen):
        if done.get(entry.name) == now and not again:
            print(f"{entry.name}: made already, with this code")
            continue
        try:
            succeeds = all(_succeeds(command, data, entry) for command in entry.commands)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(
                f"stopped in {entry.name}; the same command goes on with it"
            ) from error
        if succeeds:
            done[entry.name] = now
            write_json(MADE, done)
        else:
            failed.append(entry.name)
    if failed:
        print(f"\nfailed: {', '.join(failed)}; the same command tries these again")
    return 1 if failed else 0


def _succeeds(command: str, data: str | None, entry: Result) -> bool:
    command = command.replace(DATA, "" if data is None else f" --data {shlex.quote(data)}")
    print(f"\n$ {command}    (about {minutes(entry)} minutes)", flush=True)
    program, *arguments = shlex.split(command)
    programs = {"python": [sys.executable], "qgf-ref": [sys.executable, "-m", "qgf_ref"]}
    return code_of([*programs[program], *arguments], ROOT) == 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = top.add_mutually_exclusive_group()
    what.add_argument("--list", action="store_true", help="the default")
    what.add_argument("--run", nargs="+", metavar="NAME", help="names of the list, or all")
    what.add_argument("--check", nargs="*", metavar="NAME", help="of its list, or all (default)")
    what.add_argument("--age", action="store_true", help="commits and changed lines since")
    top.add_argument("--again", action="store_true", help="with --run: also what is made already")
    top.add_argument("--data", help="OGBench data sets (default: OGBench's cache)")
    return top


def main() -> int:
    """List the results, say how old they are, or make them; the exit code."""
    args = parser().parse_args()
    if args.again and not args.run:
        raise InputError("--again goes with --run")
    if args.data is not None and not user_path(args.data).exists():
        raise InputError(f"no data sets at {args.data}: there is no such directory")
    if args.run:
        return run(args.run, args.data, again=args.again)
    if args.check is not None:
        return check(args.check, args.data)
    for entry in RESULTS_IN_ORDER:
        if args.age:
            print(f"{entry.name:22} {age_text(entry, 'HEAD'):>20} since {made(entry)}")
        else:
            commands = "; ".join(map(shown, entry.commands))
            print(f"{entry.name:22} {minutes(entry):>4} min  {commands}")
    return 0


if __name__ == "__main__":
    from benchmarks.command import ended

    sys.exit(ended(main))
