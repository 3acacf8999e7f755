#!/usr/bin/env bash
# MuJoCo 3.5 moves an actuator that is at its force limit otherwise than 3.4 does, and OGBench's arm with it.
#
# Expected: the same model, state and action give the same step in 3.4 and in 3.5, but for rounding.
# Seen: a hinge of inertia I, pushed from rest by a position servo with damping kv that is at its force
# limit F, has the velocity hF/I after one step of length h in 3.5, and hF/(I + h·kv) in 3.4: the implicit
# integrators subtracted the derivative of a force that is constant there. OGBench's arm (implicitfast,
# limits of 28 to 150 N·m) reaches its limits under ordinary actions: after one control step of a random
# action its joints' velocities differ by 0.14 rad/s between the two, after the second by 0.3.
# Why it matters: the data sets that OGBench publishes were recorded before 3.5, and `pip install ogbench`
# brings a later MuJoCo. A policy cloned from them is evaluated on another arm, success rates of papers and
# reruns are of different simulators, and nothing in a data set says which one it was recorded with.
# Versions: mujoco 3.4.0 and 3.5.0, ogbench 1.2.2, dm_control 1.0.36; Python 3.10 to 3.12.
# Source: observed; MuJoCo's changelog for 3.5.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip install --quiet --upgrade pip
pip install --quiet "mujoco==3.4.0" "ogbench==1.2.2" "dm_control==1.0.36" "gymnasium==1.4.0"
cat > "$place/step.py" <<'PYTHON'
import os
import sys

os.environ["MUJOCO_GL"] = "off"
import gymnasium
import mujoco
import numpy as np
import ogbench  # registers the environments

HINGE = """<mujoco><option timestep="0.01" integrator="implicitfast" gravity="0 0 0"/>
<worldbody><body><joint name="j" axis="0 0 1"/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/></body></worldbody>
<actuator><position joint="j" kp="1000" kv="100" forcerange="-10 10"/></actuator></mujoco>"""
model = mujoco.MjModel.from_xml_string(HINGE)
data = mujoco.MjData(model)
data.ctrl[0] = 1.0  # the servo asks for 1000, and is at its limit of 10
mujoco.mj_step(model, data)
h, force, inertia, kv = 0.01, 10.0, 1.0, 100.0
clamped, damped = h * force / inertia, h * force / (inertia + h * kv)
print(f"mujoco {mujoco.__version__}: velocity {data.qvel[0]:.4f}; "
      f"hF/I = {clamped:.4f}, hF/(I + h kv) = {damped:.4f}")
assert np.isclose(data.qvel[0], {"before": damped, "after": clamped}[sys.argv[1]], rtol=1e-6)

env = gymnasium.make("cube-single-v0", disable_env_checker=True)
env.reset(seed=0)
rng, velocities = np.random.default_rng(0), []
for _ in range(3):
    env.step(rng.uniform(-1, 1, 5).astype(np.float32))
    velocities.append(env.unwrapped._data.qvel[:6].copy())
np.save(sys.argv[2], velocities)
PYTHON
"$place/venv/bin/python" -W ignore "$place/step.py" before "$place/before.npy"
pip install --quiet --no-deps "mujoco==3.5.0"
"$place/venv/bin/python" -W ignore "$place/step.py" after "$place/after.npy"
"$place/venv/bin/python" - "$place/before.npy" "$place/after.npy" <<'PYTHON'
import sys

import numpy as np

before, after = (np.load(path) for path in sys.argv[1:])
apart = abs(before - after).max(axis=1)
print("OGBench's arm, joint velocities apart after control steps 1, 2, 3:", apart.round(3), "rad/s")
assert apart[0] > 0.01
PYTHON
echo "as described: at the limit 3.4 damps a force that is constant, 3.5 does not"
