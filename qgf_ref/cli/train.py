"""qgf-ref train."""

from __future__ import annotations

import argparse
import types
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from qgf_ref.agents.registry import AGENTS, OF_GOALS, agent_named
from qgf_ref.cli.arguments import next_command
from qgf_ref.cli.checkpoint_options import Assignment, flag_of, path_or_name
from qgf_ref.cli.parser import add_track
from qgf_ref.errors import InputError, reason
from qgf_ref.files import user_path
from qgf_ref.guidance.registry import estimator, estimator_names
from qgf_ref.interop.parameter_file import json_object
from qgf_ref.tracking import Tracking
from qgf_ref.training.config import PRESETS, TrainConfig, preset
from qgf_ref.training.interruption import signal_name

if TYPE_CHECKING:
    from qgf_ref.agents.agent import Agent
    from qgf_ref.training.beside import TrainedBeside
    from qgf_ref.training.run import Finished

EXAMPLE = """examples:
  qgf-ref train cube-single-play-singletask-task1-v0 --data data --out runs/cube1
  qgf-ref train --resume runs/cube1                    (after Ctrl-C or a kill)
  qgf-ref train --resume runs/cube1 --updates 60000    (longer than planned)
  qgf-ref train pointmaze-medium-navigate-singletask-v0 --preset paper --seed 1
  qgf-ref train --agent cfgrl --base runs/cube1        (against a finished run's networks)
  qgf-ref train cube-single-play-singletask-task1-v0 --agent fql --alpha 100
  qgf-ref train cube-triple-play-singletask-task1-v0 --agent fql --preset paper
  qgf-ref train cube-single-play-oraclerep-v0 --agent dqc --expectile 0.93   (reaching goals)
  qgf-ref train cube-single-play-singletask-task1-v0 --agent mine.agents:MINE
"""

BESIDE = {"updates": 10_000, "batch": 256, "learning_rate": 3e-4, "seed": 0, "backend": "numba"}
"""Settings of a training against a base that are not the base run's, unless they are given."""
CHANGEABLE = (*BESIDE, "hidden", "data", "threads", "log_every")
"""Settings of a training against a base that may differ from the base run's."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command; its flags are the fields of `TrainConfig`."""
    parser = commands.add_parser(
        "train",
        help="train a flow policy and an IQL critic on an OGBench task",
        description="Behaviour cloning of a flow policy and an IQL critic, which never touch, on a "
        "single-task OGBench problem; or another --agent. Ctrl-C saves; --resume continues bit for "
        "bit.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="TASK", help="OGBench name: a task, or goals")
    parser.add_argument("--resume", type=Path, metavar="DIR", help="continue the run in DIR")
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="of --agent: the run that it is trained against"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: qgf_runs/TASK/seedN")
    add_track(parser)
    parser.add_argument("--preset", choices=sorted(PRESETS), help="default: small")
    parser.add_argument(
        "--config", type=Path, metavar="F.json", help="settings; flags override them"
    )
    group = parser.add_argument_group("settings")
    kinds = get_type_hints(TrainConfig)
    for setting in fields(TrainConfig):
        if setting.name not in ("task", "agent_settings"):
            shown, about = setting.default, setting.metadata["help"]
            shown = " ".join(map(str, shown)) if isinstance(shown, tuple) else shown
            default = "" if shown is None else f" (default: {shown})"
            _add_flag(group, setting.name, kinds[setting.name], f"{about}{default}")
    group = parser.add_argument_group("settings that only some agents have")
    for name, (kind, about) in _agents_settings().items():
        _add_flag(group, name, kind, about)
    group.add_argument(
        "--set",
        dest="own",
        nargs="+",
        type=Assignment,
        default=[],
        metavar="NAME=VALUE",
        help="settings of an agent of your own, --agent package.module:AGENT",
    )
    parser.set_defaults(run=run)


def _agents_settings() -> dict[str, tuple[Any, str]]:
    """Settings of the agents' own by name: their type, and the help of each agent that has one."""
    found: dict[str, tuple[Any, dict[str, list[str]]]] = {}
    for agent in (*AGENTS.values(), *OF_GOALS.values()):
        kinds = get_type_hints(type(agent.settings)) if agent.settings is not None else {}
        for own in fields(agent.settings) if agent.settings is not None else ():
            about = f"{own.metadata['help']} (default: {own.default})"
            _, helps = found.setdefault(own.name, (kinds[own.name], {}))
            helps.setdefault(about, []).append(agent.name)
    return {
        name: (kind, "; ".join(f"{', '.join(owners)}: {about}" for about, owners in helps.items()))
        for name, (kind, helps) in found.items()
    }


def run(args: argparse.Namespace) -> int:
    """Train; 130 or 143 when a signal ended it."""
    from qgf_ref.training.run import resume, start

    tracking = Tracking(args.track)
    given = {f.name: getattr(args, f.name, None) for f in fields(TrainConfig)}
    given = {name: value for name, value in given.items() if value is not None}
    # an agent that --agent has just made known has settings, too, and no flags: --set
    own = {name: getattr(args, name, None) for name in _agents_settings()}
    own = {name: value for name, value in own.items() if value is not None}
    own |= dict(each.pair for each in args.own)
    every = given | own
    if args.base is not None:
        if "agent" in given:
            _require_base(str(given["agent"]))
        allowed = ("agent", *CHANGEABLE)
        _refuse_other_settings(args, every, "--base takes its other settings from the run", allowed)
        name = str(given.pop("agent", "iql"))
        return train_beside(args, name, args.base, given, tracking)
    if args.resume is not None:
        allowed = ("agent", "updates", "data")
        _refuse_other_settings(args, every, "--resume takes its settings from the run", allowed)
        finished = resume(args.resume, **given, tracking=tracking)
    else:
        config = _configuration(args, given, own)
        out = args.out or Path("qgf_runs") / config.task / f"seed{config.seed}"
        finished = start(config, out, tracking)
    return _report(args, finished)


def _require_base(name: str) -> None:
    agent = agent_named(name)
    if agent.base is None:
        raise InputError(
            f"--base is for agents that are trained against a finished run, and {agent.name} is "
            "not: leave it out, and say of which TASK"
        )


def _configuration(
    args: argparse.Namespace, given: dict[str, Any], own: dict[str, Any]
) -> TrainConfig:
    if args.config is not None and args.preset is not None:
        raise InputError("give --config or --preset, not both: a configuration is complete")
    if args.config is not None:
        try:
            text = args.config.read_bytes()
        except (OSError, UnicodeError) as error:
            raise InputError(f"cannot read {args.config}: {reason(error)}") from error
        config = TrainConfig.from_json(json_object(text, str(args.config)), str(args.config))
    else:
        agent = given.get("agent", "iql")
        config = preset(args.preset or "small", agent, args.name or "", own)
    agent = given.get("agent", config.agent)
    length = given.get("horizon_length", own.get("policy_chunk_size"))
    if agent_named(agent).of_goals and length is not None:  # it has two names
        given, own = {"horizon_length": length, **given}, {"policy_chunk_size": length, **own}
    if agent == config.agent:
        own = {**config.agent_settings, **own}
    given |= {"task": args.name} if args.name else {}
    config = replace(config, **given, agent_settings=own)
    if not config.task:
        raise InputError(
            "which task? e.g. qgf-ref train cube-single-play-singletask-task1-v0 (or --resume DIR)"
        )
    return config


def train_beside(
    args: argparse.Namespace,
    name: str,
    directory: Path,
    given: Mapping[str, Any],
    tracking: Tracking | None = None,
) -> int:
    """Train the agent `name` against the run in `directory`; 130 or 143 when a signal ended it."""
    from qgf_ref.training import beside

    agent, changes = agent_named(name), {**BESIDE, **given}
    if "data" in given:
        changes["data"] = str(user_path(given["data"]).resolve())
    if "hidden" in given:
        changes["hidden"] = tuple(given["hidden"])
    trained = beside.train_beside(agent, directory, changes, tracking)
    return _report_beside(args, agent, trained, changes["updates"])


def _report_beside(
    args: argparse.Namespace, agent: Agent, trained: TrainedBeside, updates: int
) -> int:
    where, name = trained.directory, agent.name
    methods = [n for n in estimator_names() if estimator(n).auxiliary == name]
    args.result = {
        "agent": name, "directory": where, "updates": trained.updates, "signal": trained.signal,
        "metrics": trained.rows[-1] if trained.rows else None,
    }  # fmt: skip
    if trained.signal is not None:
        again = next_command(args, getattr(args, "command", "train"))
        print(
            f"{signal_name(trained.signal)} after update {trained.updates} of {updates}; all is "
            f"saved in {where}\nNext: {again}  (goes on)"
        )
        return 128 + trained.signal
    if trained.rows:
        print("  ".join(f"{key} {value:.5g}" for key, value in trained.rows[-1].items()))
    print(f"{name}.safetensors, {name}.csv and {name}.json are in {where}")
    evaluate = next_command(
        args, "evaluate", (), checkpoint=[where], methods=["bc", "qgf", *methods]
    )
    print(f"Next: {evaluate}")
    return 0


def _refuse_other_settings(
    args: argparse.Namespace, given: dict[str, Any], why: str, allowed: Sequence[str]
) -> None:
    other = sorted(set(given) - set(allowed))
    other += [n for n in ("name", "out", "preset", "config") if getattr(args, n) is not None]
    if args.base is not None and args.resume is not None:
        other.append("resume")
    if other:
        flags = [flag_of(name) for name in allowed if name != "agent"]
        may = f"{', '.join(flags[:-1])} and {flags[-1]}"
        not_these = ", ".join("TASK" if name == "name" else flag_of(name) for name in other)
        raise InputError(f"{why}; only {may} may change, not {not_these}")


def _report(args: argparse.Namespace, finished: Finished) -> int:
    where, state, config = finished.directory, finished.state, finished.config
    args.result = {
        "directory": where, "updates": state.update, "of": config.updates,
        "signal": finished.signal, "peak_data_bytes": finished.peak_data_bytes,
        "peak_process_bytes": finished.peak_process_bytes,
        "metrics": state.metrics[-1] if state.metrics else None,
    }  # fmt: skip
    if finished.signal is not None:
        print(
            f"{signal_name(finished.signal)} after update {state.update} of {config.updates}; "
            f"everything is saved in {where}\n"
            f"Next: {next_command(args, 'train', _carried(config), resume=where)}"
        )
        return 128 + finished.signal
    if state.metrics:
        last = state.metrics[-1]
        print("  ".join(f"{name} {last[name]:.4g}" for name in last))
    memory = f"data {finished.peak_data_bytes / 1e6:.1f} MB"
    if finished.peak_process_bytes is not None:
        memory += f", process {finished.peak_process_bytes / 1e6:.0f} MB"
    print(f"{state.update} updates; memory: {memory} at most")
    drawn = (
        "metrics.csv and losses.png" if state.metrics else "metrics.csv (empty: see --log-every)"
    )
    print(f"checkpoint, {drawn} are in {where}")
    if state.metrics and "validation_policy" not in state.metrics[-1]:
        print("no validation set: there is none beside the data (collect makes one)")
    print(f"Next: {next_command(args, 'evaluate', _carried(config), checkpoint=[where])}")
    return 0


def _carried(config: TrainConfig) -> tuple[str, ...]:
    """Of the next command: only an agent of the user's own has to be said again."""
    return ("track",) if config.agent in (*AGENTS, *OF_GOALS) else ("agent", "track")


def _add_flag(group: Any, name: str, kind: Any, about: str) -> None:
    options: dict[str, Any] = {"dest": name, "default": None}
    if get_origin(kind) is types.UnionType:
        options["type"] = path_or_name if name == "data" else get_args(kind)[0]
    elif get_origin(kind) is Literal:
        options["choices"] = get_args(kind)
    elif get_origin(kind) is tuple:
        options |= {"type": int, "nargs": "+", "metavar": "F"}
    elif kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = kind
    if not {"choices", "metavar", "action"} & set(options):
        options["metavar"] = {int: "N", float: "X"}.get(kind, "V")
    group.add_argument(flag_of(name), help=about, **options)
