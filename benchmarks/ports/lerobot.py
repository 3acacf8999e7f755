"""lerobot's EVO1 action head, its loops and its real-time chunking, and a QGF for SmolVLA.

EVO1's head is the only flow policy of lerobot's at this commit whose module imports with PyTorch
alone: SmolVLA, pi0 and pi0.5 need transformers, GR00T and VLA-JEPA diffusers. Their loop,
`euler_integrate`, needs nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

import qgf_ref
from benchmarks.ports.sources import Source, importing, pinned
from benchmarks.ports.trials import ROWS, STEPS, Trial, gated
from qgf_ref import adapters
from qgf_ref.arrays import Array
from qgf_ref.guidance.base import GuidedFlow

LEROBOT = pinned("huggingface/lerobot")
SMOLVLA_QGF = pinned("jason0925pig-rgb/SmolVLA-with-QGF")
H, A, REAL, OBS, WIDTH = 4, 5, 3, 6, 16
BUCKETS = 999
"""EVO1's network is told int(999·t)."""
MOST, DELAY, EXECUTED = 10.0, 1, 3
CHUNKING = f"+schedule=rtc,{MOST:g}"
STEEP, GATE = 6.0, 0.2
"""Factor on the critics' last layer, so that gradients are about 1 long and a clip at 1 acts."""


class Listener:
    """A guidance hook that keeps the field it is handed, and guides nothing."""

    def denoise_step(self, *, x_t: Any, original_denoise_step_partial: Any, **_: Any) -> Any:
        """No guidance."""
        self.field = original_denoise_step_partial
        return torch.zeros_like(x_t)


class Drawn:
    """In the place of `torch.rand(…)` in rand·2 − 1: the noise that is wanted."""

    def __init__(self, noise: Any) -> None:
        self.noise = noise

    def __mul__(self, _: int) -> Drawn:
        return self

    def __sub__(self, _: int) -> Any:
        return self.noise


@contextmanager
def drawing(noise: Any) -> Iterator[None]:
    """EVO1 draws its own noise, uniform; what it starts from here."""
    own, torch.rand = torch.rand, lambda *_, **__: Drawn(noise)
    try:
        yield
    finally:
        torch.rand = own


class Evo1:
    """A small random head of theirs, N observations, and two critics of SmolVLA-with-QGF's."""

    def __init__(self, lerobot: Path, smolvla: Path) -> None:
        with importing(lerobot, smolvla):
            # the package's own __init__ imports every configuration; this one name is asked of it
            types = import_module("lerobot.configs.types")
            import_module("lerobot.configs").RTCAttentionSchedule = types.RTCAttentionSchedule  # type: ignore[attr-defined]
            self.loop = import_module("lerobot.policies.common.flow_matching").euler_integrate
            head = import_module("lerobot.policies.evo1.flow_matching").FlowmatchingActionHead
            self.rtc = import_module("lerobot.policies.rtc.modeling_rtc").RTCProcessor
            self.rtc_config = import_module("lerobot.policies.rtc.configuration_rtc").RTCConfig
            self.guidance = import_module("guided_action_flow.guidance.qgf").QGuidanceConfig
            policies = import_module("guided_action_flow.policies.smolvla_qgf")
            self.processor = policies.SmolVLAQGFProcessor
            q = import_module("guided_action_flow.critics.transformer_action_chunk_critic")
            config = q.TransformerActionChunkCriticConfig(
                OBS, REAL, H, d_model=WIDTH, num_layers=1, num_heads=2
            )
            torch.manual_seed(0)
            self.critics = [q.TransformerActionChunkCritic(config) for _ in range(2)]
            self.head = head(
                WIDTH, 24, H * A, H, A, num_heads=2, num_layers=2, num_inference_timesteps=STEPS,
                state_dim=OBS,
            ).eval()  # fmt: skip
        for critic in self.critics:
            critic.module.eval()
            critic.module.head[-1].weight.data.mul_(STEEP)
        self.real = torch.arange(A) < REAL
        self.held = {
            "tokens": torch.randn(ROWS, 3, WIDTH),
            "state": torch.randn(ROWS, OBS),
            "left": torch.randn(ROWS, H, A) * self.real,
        }

    def rows(self, numbers: Array) -> dict[str, Any]:
        """These of the observations."""
        return {name: x[numbers[:, 0].astype(int)] for name, x in self.held.items()}

    def act(self, obs: dict[str, Any], noise: Any, hook: Any, **settings: Any) -> Any:
        """Their `get_action`, from this noise (B, H, A), with this in its guidance hook."""
        count = len(noise)
        with drawing(noise):
            action = self.head.get_action(
                obs["tokens"], state=obs["state"], action_mask=self.real.float().expand(count, A),
                rtc_processor=hook, prev_chunk_left_over=obs["left"], **settings,
            )  # fmt: skip
        return action.detach().view(count, H, A)

    def towards_noise(self, obs: dict[str, Any], x: Any, t: Any) -> Any:
        """What `get_action` hands to its hook, −v, at the core's t (B,)."""
        listener = Listener()
        self.act(obs, torch.zeros_like(x), listener)
        bucket = (t * BUCKETS).long().clamp(0, BUCKETS)  # its table ends there
        return listener.field(x, self.head.time_pos_enc(BUCKETS + 1)[0, bucket])

    def q(self, obs: dict[str, Any], x: Any) -> Any:
        """(2, B), of the three real dimensions."""
        return torch.stack([critic(obs["state"], x) for critic in self.critics])

    def qgf(self, obs: dict[str, Any], weight: float, clip: float | None, spread: float) -> Any:
        """Their QGF for this weight, 1/β."""
        config = self.guidance(1 / weight if weight else float("inf"), clip, spread)
        hook = self.processor(critic=self.critics, config=config, critic_action_dim=REAL)
        hook.set_obs_features(obs["state"])
        return hook


def padded(noise: Array) -> Any:
    """(B, H, A) of the real numbers (B, H·3): EVO1 multiplies its chunk by the mask."""
    chunk = torch.zeros(len(noise), H, A)
    chunk[..., :REAL] = torch.from_numpy(noise).view(-1, H, REAL)
    return chunk


def trials(folder: Path) -> list[Trial]:
    """Of everything here. Raises NoSource."""
    lerobot, smolvla = LEROBOT.written(folder), SMOLVLA_QGF.written(folder)
    evo1 = Evo1(lerobot, smolvla)
    numbers = adapters.row_numbers(ROWS)
    shared: dict[str, Any] = {
        "action_shape": (H, A), "real": evo1.real.numpy(), "held": 0.0, "aggregation": "mean",
        "observations": evo1.held, "denoise_steps": STEPS, "action_bound": None,
        "dtype": "float32", "device": "cpu",
    }  # fmt: skip

    def flat(action: Any) -> Array:
        return action[..., :REAL].reshape(len(action), -1).numpy()

    def in_their_loop(clip: float | None, spread: float = 0.0) -> Any:
        def sampler(rows: Array, noise: Array, weight: float) -> Array:
            obs = evo1.rows(rows)
            return flat(
                evo1.loop(
                    lambda x, tau: evo1.towards_noise(obs, x, 1 - tau).detach(), padded(noise),
                    STEPS, rtc_processor=evo1.qgf(obs, weight, clip, spread), rtc_enabled=True,
                )
            )  # fmt: skip

        return sampler

    def in_evo1s_loop(rows: Array, noise: Array, weight: float) -> Array:
        obs = evo1.rows(rows)
        return flat(evo1.act(obs, padded(noise), evo1.qgf(obs, weight, None, 0.0)))

    rtc = evo1.rtc(evo1.rtc_config(max_guidance_weight=MOST, execution_horizon=EXECUTED))
    share = rtc.get_prefix_weights(DELAY, EXECUTED, H)[:, None]

    def chunked(rows: Array, noise: Array, _: float) -> Array:
        return flat(evo1.act(evo1.rows(rows), padded(noise), rtc, inference_delay=DELAY))

    def kept(obs: dict[str, Any], x: Any) -> Any:
        return -0.5 * (share * (obs["left"][..., :REAL] - x) ** 2).sum(dim=(1, 2))

    reverse = adapters.torch(
        lambda obs, x, tau: evo1.towards_noise(obs, x, 1 - tau), evo1.q,
        convention="lerobot", **shared,
    )  # fmt: skip
    told = qgf_ref.Convention("evo1", 0, "action", "exact", BUCKETS)

    def velocity(obs: dict[str, Any], x: Any, bucket: Any) -> Any:
        # half a bucket on: k/999·999 may round down
        return -evo1.towards_noise(obs, x, (bucket + 0.5) / BUCKETS)

    own = adapters.torch(velocity, evo1.q, convention=told, **shared)
    prefix = adapters.torch(velocity, kept, convention=told, **shared)
    loop, hook = "lerobot `euler_integrate`", "SmolVLA-with-QGF `SmolVLAQGFProcessor`"
    head = "lerobot EVO1 `get_action`"
    chunking = f"{head}, `RTCProcessor`"

    def trial(source: Source, samples: str, flow: GuidedFlow, sampler: Any, *more: Any) -> Trial:
        return Trial(source, samples, flow, numbers, sampler, *more)

    clipped = ("gradient-norm-clipped",)
    gate = gated("qgf+norm=1", GATE)
    without_jacobian = replace(
        trial(LEROBOT, chunking, prefix, chunked, f"qgf{CHUNKING}"), weighted=False
    )
    return [
        trial(SMOLVLA_QGF, f"{loop}, {hook}, unclipped", reverse, in_their_loop(None), "qgf"),
        trial(SMOLVLA_QGF, f"{loop}, {hook}", reverse, in_their_loop(1.0), "qgf", clipped),
        trial(SMOLVLA_QGF, f"{loop}, {hook}", reverse, in_their_loop(1.0), "qgf+norm=1"),
        trial(SMOLVLA_QGF, f"{loop}, {hook}, gate", reverse, in_their_loop(1.0, GATE), gate),
        trial(SMOLVLA_QGF, f"{head}, {hook}, unclipped", own, in_evo1s_loop, "qgf"),
        without_jacobian,
        replace(without_jacobian, estimator=f"qgf_jacobian{CHUNKING}", expected=("unknown",)),
    ]
