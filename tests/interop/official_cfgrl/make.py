"""Makes the files beside it, by the official code (github.com/zhouzypaul/qgf at bc44a67).

Where its requirements are installed: PYTHONPATH=CLONE python tests/interop/official_cfgrl/make.py
Every parameter is moved after creation, so that critic and target critic rank differently. The
states of the optimizers are left out of the pickle: nothing reads them, and they are two thirds.
"""

import json
import pickle
from pathlib import Path

import flax
import jax
import numpy as np
from agents.cfgrl import CFGRLAgent, get_config

from qgf_ref.files import write_npz

HERE = Path(__file__).parent
NETWORKS = ("actor", "critic", "target_critic", "value")
ROWS, O, A, H = 6, 5, 2, 2

config = get_config()
hidden = (8, 8)
config.update(
    actor_hidden_dims=hidden, value_network_kwargs={"hidden_dims": hidden, "layer_norm": True},
    horizon_length=H, action_chunking=True, denoise_steps=6,
)  # fmt: skip
agent = CFGRLAgent.create(0, np.zeros((1, O)), np.zeros((1, A)), config)
for number, name in enumerate(NETWORKS):
    rng, net = np.random.default_rng(number), getattr(agent, name)
    moved = jax.tree_util.tree_map(
        lambda x, rng=rng: x + (0.3 * rng.standard_normal(x.shape)).astype("float32"), net.params
    )
    agent = agent.replace(**{name: net.replace(params=moved)})

obs = np.random.default_rng(9).standard_normal((ROWS, O)).astype("float32")
key, samples = jax.random.PRNGKey(3), {"obs": obs}
for n in (1, 4):
    samples[f"noise_{n}"] = np.asarray(jax.random.normal(key, (ROWS * n, A * H)))
    for w in (0, 1, 3):
        samples[f"action_{n}_{w}"] = np.asarray(
            agent.sample_actions(obs, seed=key, guidance_weight=float(w), rejection_sampling=n)
        )

state = flax.serialization.to_state_dict(agent)
for name in NETWORKS:
    state[name].pop("opt_state")
(HERE / "params_3.pkl").write_bytes(pickle.dumps({"agent": state}))
(HERE / "flags.json").write_text(json.dumps({"agent": dict(config)}, indent=1) + "\n")
write_npz(HERE / "samples.npz", samples)
