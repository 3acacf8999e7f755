"""Wrong training steps of DQC, planted in its JAX peer: what a porter could have written.

As in `jax_agent_mistakes`: methods are replaced, gradients are JAX's, nothing is shared with the
bank but the names. `HELD_OUT` ones are in no bank; with each goes the first quantity it changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.peers.jax_dqc import DQC, bce, logit

Methods = dict[str, Any]


def _scaled(name: str, factor: Callable[[Any, Any], Any]) -> Methods:
    right = getattr(DQC, name)
    return {name: lambda self, each: right(self, each) * factor(self, each)}


def _members(self: Any, each: Any) -> int:
    return len(each)


def _without_goal(*parts: str) -> Methods:
    def joined(self: Any, part: str, obs: Any, goal: Any) -> Any:
        return jnp.concatenate([obs, 0 * goal if part in parts else goal], -1)

    return {"joined": joined}


def _goal_first(policy: bool) -> Methods:
    def joined(self: Any, part: str, obs: Any, goal: Any) -> Any:
        both = [goal, obs] if (part == "policy") == policy else [obs, goal]
        return jnp.concatenate(both, -1)

    return {"joined": joined}


def _of_part(part: str, name: str, right: Callable[..., Any], wrong: Callable[..., Any]) -> Methods:
    """The method, wrong where it is called for this part."""
    return {name: lambda self, at, *rest: (wrong if at == part else right)(self, at, *rest)}


def _all_rows(self: Any, part: str, each: Any, batch: Any) -> Any:
    return each


def _valid_rows(self: Any, part: str, each: Any, batch: Any) -> Any:
    valid = self.valid(batch)
    return valid * each * (len(valid) / jnp.sum(valid))


def _last_actions(self: Any, action: Any) -> Any:
    return action[:, -(action.shape[1] * self.own.policy_chunk_size // self.own.backup_horizon) :]


def _flat_column(self: Any, batch: Any) -> Any:
    width = self.chunk(batch["action"]).shape[1]
    return jnp.take(batch["valid"], width - 1, axis=1, mode="clip")


def _short(self: Any, critic: Any, batch: Any) -> Any:
    first = self.chunk(batch["action"])
    rest = jnp.zeros((len(first), batch["action"].shape[1] - first.shape[1]))
    return self.logits("chunk_critic", critic, batch, jnp.concatenate([first, rest], -1))


def _live_value(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    return jax.nn.sigmoid(self.v(learned["value"], self.next_obs(batch), self.goal(batch)))


def _live_teacher(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    return jax.nn.sigmoid(self.chunk_logits(learned["chunk_critic"], batch))


def _reduced_teacher(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    return self.reduced(jax.nn.sigmoid(self.chunk_logits(frozen["chunk_critic"], batch)))


def _backup_of_logits(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    z = self.action_logits(frozen["target_action_critic"], batch)
    return jax.nn.sigmoid(self.reduce(z, 0))


def _lost_axis(self: Any, q: Any) -> Any:
    return jnp.full_like(q[0], self.reduce(q[0], 0)) if len(q) == 1 else self.reduce(q, 0)


def _symmetric(self: Any, part: str, z: Any, y: Any) -> Any:
    if self.statistic(part) == "expectile":
        return bce(z, y)
    return jnp.abs(z - self.quantile_target(part, y))


def _of_asymmetric(part: str) -> dict[str, Methods]:
    of = {"action_critic": "distillation", "value": "backup"}[part]
    setting = {"action_critic": "distill_method", "value": "implicit_backup_type"}[part]

    def other(self: Any, at: str) -> str:
        return {"quantile": "expectile", "expectile": "quantile"}[getattr(self.own, setting)]

    def kappa(self: Any, at: str) -> float:
        return self.hyper.expectile if part == "action_critic" else float(self.own.kappa_d)

    def swapped(self: Any, at: str) -> float:
        return 1 - DQC.kappa(self, at)

    def strict(self: Any, at: str, z: Any, y: Any) -> Any:
        kappa = self.kappa(at)
        return jnp.where(y > jax.nn.sigmoid(z), kappa, 1 - kappa) * bce(z, y)

    other_kind = _of_part(part, "statistic", DQC.statistic, other)
    return {
        f"valid-ignored-in-{of}": _of_part(part, "weighed", DQC.weighed, _all_rows),
        f"{of}-mean-over-valid-rows": _of_part(part, "weighed", DQC.weighed, _valid_rows),
        f"{of}-weights-swapped": _of_part(part, "kappa", DQC.kappa, swapped),
        f"{of}-unweighted": _of_part(part, "asymmetric", DQC.asymmetric, _symmetric),
        f"{of}-other-kappa": _of_part(part, "kappa", DQC.kappa, kappa),
        f"{of}-of-quantile": other_kind,
        f"{of}-of-expectile": other_kind,
        f"{of}-strict": _of_part(part, "asymmetric", DQC.asymmetric, strict),
    }


def _single_bound(self: Any, part: str, y: Any) -> Any:
    return logit(jnp.clip(y, 1e-5, 1 - 1e-5) if part == "action_critic" else y)


PLANTED: dict[str, Methods] = {
    "policy-sum-over-action": {
        "cloned": lambda self, error, batch: DQC.cloned(self, error, batch) * error.shape[1]
    },
    "policy-other-norm-order": {
        "after": lambda self, part: DQC.after(self, part) != (part == "policy")
    },
    "critics-other-norm-order": {
        "after": lambda self, part: DQC.after(self, part) == (part == "policy")
    },
    "valid-in-policy-loss": {
        "cloned": lambda self, error, batch: jnp.mean(self.valid(batch)[:, None] * error)
    },
    "valid-ignored-in-cloning": {"cloned": lambda self, error, batch: jnp.mean(error)},
    "time-unscaled": {"embedding": lambda self, t: DQC.embedding(self, t / 10000)},
    "mask-ignored": {
        "target": lambda self, learned, frozen, batch: DQC.target(
            self, learned, frozen, {**batch, "masks": jnp.ones_like(batch["masks"])}
        )
    },
    "mask-inverted": {
        "target": lambda self, learned, frozen, batch: DQC.target(
            self, learned, frozen, {**batch, "masks": 1 - batch["masks"]}
        )
    },
    "discount-of-one-step": {"steps": lambda self, batch: 1},
    "discount-of-whole-chunk": {"steps": lambda self, batch: self.own.backup_horizon},
    "reward-discounted-again": {
        "reward": lambda self, batch: self.discounts(batch) * batch["rewards"]
    },
    "bootstrap-current-state": {"next_obs": lambda self, batch: batch["obs"]},
    "bootstrap-logit": {
        "bootstrap": lambda self, learned, frozen, batch: self.v(
            frozen["value"], batch["next_obs"], batch["goal"]
        )
    },
    "target-unclipped": {"bounded": lambda self, y: y},
    "chunk-gradient-into-value": {"bootstrap": _live_value},
    "goal-left-out-of-chunk-critic": _without_goal("chunk_critic"),
    "goal-left-out-of-action-critic": _without_goal("action_critic"),
    "goal-left-out-of-value": _without_goal("value"),
    "goal-left-out-of-policy": _without_goal("policy"),
    "goal-before-state-in-critics": _goal_first(policy=False),
    "goal-before-state-in-policy": _goal_first(policy=True),
    "policy-has-critics-goals": {"policy_goal": lambda self, batch: batch["goal"]},
    "critics-have-policys-goals": {"goal": lambda self, batch: batch["policy_goal"]},
    "valid-of-flat-chunk": {"valid": _flat_column},
    "chunk-from-the-end": {"chunk": _last_actions},
    "chunk-critic-short": {"chunk_logits": _short},
    "chunk-critic-sum-over-ensemble": _scaled("mean_of_members", _members),
    "valid-in-chunk-critic-loss": {
        "regressed": lambda self, z, y, batch: self.valid(batch) * bce(z, y)
    },
    "teacher-aggregated": {"taught": _reduced_teacher},
    "teacher-differentiated": {"taught": _live_teacher},
    "backup-from-chunk-critic": {"backup": _reduced_teacher},
    "distillation-sum-over-ensemble": _scaled("mean_of_distilled", _members),
    "distillation-bound-float32": {"quantile_target": _single_bound},
    "backup-mean-of-logits": {"backup": _backup_of_logits},
    "backup-other-aggregation": {
        "backup": lambda self, learned, frozen, batch: (
            jnp.mean if self.reduce is jnp.min else jnp.min
        )(jax.nn.sigmoid(self.action_logits(frozen["target_action_critic"], batch)), 0)
    },
    "backup-from-online-critic": {"backup_critic": "action_critic"},
    "backup-of-one-member-over-batch": {"reduced": _lost_axis},
    **_of_asymmetric("action_critic"),
    **_of_asymmetric("value"),
}
"""By the name that the bank gives them."""


def _live_backup(self: Any, learned: Any, frozen: Any, batch: Any) -> Any:
    return self.reduced(jax.nn.sigmoid(self.action_logits(learned["action_critic"], batch)))


HELD_OUT: dict[str, tuple[Methods, str]] = {
    "squares of probabilities for the chunk critic's cross-entropy": (
        {"regressed": lambda self, z, y, batch: (jax.nn.sigmoid(z) - y) ** 2}, "chunk_critic"
    ),
    "members of the teacher in reverse": (
        {"taught": lambda *args: DQC.taught(*args)[::-1]}, "action_critic"
    ),
    "quantiles of probabilities for those of logits": (
        {"quantile_target": lambda self, part, y: y}, "value"
    ),
    "the value's loss differentiated in the online critic": ({"backup": _live_backup}, "value"),
    "a path of squared times": (
        {"point": lambda self, x0, x1, t: (1 - t * t) * x0 + t * t * x1}, "policy"
    ),
}  # fmt: skip
"""In no bank, of DQC with a chunk critic that teaches expectiles and a value of quantiles."""
