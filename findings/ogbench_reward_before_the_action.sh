#!/usr/bin/env bash
# OGBench's single-task environments judge success, reward and termination on the state *before* the
# action since 1.2; the goal-conditioned ones of the same package, and 1.1, on the state after it.
#
# Expected: as Gymnasium has it, step(a) returns the reward of the transition that a caused, so that
# the step which reaches the goal says so, in both kinds of environment.
# Seen (1.2.2): in pointmaze-medium-singletask-task1-v0, the step that enters the goal returns reward
# −1, terminated False, success 0; the next step, whatever its action, returns reward 0, terminated
# True, success 1. In pointmaze-medium-v0 (goal-conditioned) the step that enters returns success.
# With 1.1.5 both say so at once. The relabelled rewards of the data sets (`dataset_only` or not) are
# of the state before the action in either version, so that 1.1's rollouts do not match its data.
# Why it matters: a success on the last step of the time limit does not count in 1.2; a critic that is
# compared with returns rolled out under 1.1 seems to be off by one discounted step; and a wrapper
# written for one kind of environment is wrong for the other.
# Versions: ogbench 1.2.2 and 1.1.5, mujoco 4.0.0, gymnasium 1.4.0; Python 3.10 to 3.12.
# Source: observed; the argument `success_timing` of the environments in 1.2.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --upgrade pip
pip install --quiet "ogbench==1.2.2" "mujoco==4.0.0" "gymnasium==1.4.0"
cat > "$place/walk.py" <<'PYTHON'
import sys
from importlib.metadata import version

import gymnasium
import numpy as np
import ogbench  # registers the environments

east = np.array([1.0, 0.0], dtype=np.float32)


def steps_until_told(name, options):
    """How many steps after the one that enters the goal the environment says so."""
    env = gymnasium.make(name)
    env.reset(seed=0, options=options)
    maze = env.unwrapped
    goal, tolerance = np.array(maze.cur_goal_xy), maze._goal_tol
    maze.set_xy(goal - np.array([tolerance + 0.05, 0.0]))
    entered = None
    for step in range(5):
        _, reward, terminated, _, info = env.step(east)
        inside = bool(np.linalg.norm(maze.get_xy() - goal) <= tolerance)
        print(f"  step {step}: inside the goal {inside!s:5}  reward {reward:4.0f}  "
              f"terminated {terminated!s:5}  success {info['success']:.0f}")
        entered = step if inside and entered is None else entered
        if terminated:
            return step - entered


late = {}
for kind, name, options in (
    ("single-task", "pointmaze-medium-singletask-task1-v0", None),
    ("goal-conditioned", "pointmaze-medium-v0", {"task_id": 1}),
):
    print(f"ogbench {version('ogbench')}, {kind}: {name}")
    late[kind] = steps_until_told(name, options)
expected = {"single-task": int(sys.argv[1]), "goal-conditioned": 0}
assert late == expected, f"expected {expected}, got {late}"
PYTHON
"$place/venv/bin/python" -W ignore "$place/walk.py" 1
pip install --quiet --no-deps "ogbench==1.1.5"
"$place/venv/bin/python" -W ignore "$place/walk.py" 0
echo "as described: one step late in 1.2.2's single-task environment, at once in the others"
