"""Level 2 in jax.numpy: log-probabilities of sequences, on-policy pieces, averages over tokens.

Arrays are [B,T] unless said otherwise; masks are booleans, and where one is false anything may stand, NaN too. A gradient of 0
times NaN is NaN, so what does not count is replaced before a function sees it, and its result after.
"""

import jax
from jax import Array, lax, nn
from jax import numpy as jnp

from .losses import Outputs


def response_logp(logits: Array, tokens: Array, response_mask: Array) -> Array:
    """Σ_t log softmax(logits[t-1])[tokens[t]] over the response's positions of one row: [T,V], [T], [T]."""
    predicts = response_mask[1:]
    safe = jnp.where(predicts[:, None], logits[:-1], 0.0)
    targets = jnp.where(predicts, tokens[1:], 0)
    logps = jnp.take_along_axis(nn.log_softmax(safe), targets[:, None], axis=1)[:, 0]
    return jnp.where(predicts, logps, 0.0).sum()


def sequence_logps(logits: Array, tokens: Array, response_mask: Array) -> Outputs:
    """logits: [B,T,V]."""
    return {"logps": jax.vmap(response_logp)(logits, tokens, response_mask), "lengths": response_mask.sum(axis=1)}


def linear_sequence_logps(hidden: Array, weight: Array, tokens: Array, response_mask: Array) -> Outputs:
    """hidden: [B,T,D]; weight: [V,D]."""
    predicts = jnp.roll(response_mask, -1, axis=1)  # position 0 is no response, so nothing wraps around
    states = jnp.where(predicts[..., None], hidden, 0.0)
    return sequence_logps(states @ weight.T, tokens, response_mask)


def k3(gap: Array) -> Array:
    """e^d - 1 - d, by expm1; at d = inf the limit, inf, in value and slope."""
    return jnp.expm1(gap) - jnp.where(gap == jnp.inf, 0.0, gap)


def kl_estimates(policy_logps: Array, reference_logps: Array) -> Outputs:
    """Log-probabilities: [N]. An estimate looks at its own token alone, so one forward pass has every slope."""

    def estimates(logps: Array) -> Outputs:
        gap = reference_logps - logps
        return {"k1": -gap, "k2": gap**2 / 2, "k3": k3(gap)}

    values, slopes = jax.jvp(estimates, (policy_logps,), (jnp.ones_like(policy_logps),))
    return values | {f"grad_{name}": slope for name, slope in slopes.items()}


def gae(rewards: Array, values: Array, mask: Array, discount: float, trace_decay: float) -> Outputs:
    rewards, values = jnp.where(mask, rewards, 0.0), jnp.where(mask, values, 0.0)

    def back(ahead: tuple[Array, Array], now: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], Array]:
        (value_ahead, trace), (reward, value, counts) = ahead, now
        advantage = reward + discount * value_ahead - value + discount * trace_decay * trace
        return (jnp.where(counts, value, value_ahead), jnp.where(counts, advantage, trace)), jnp.where(counts, advantage, 0.0)

    end = (jnp.zeros_like(values[:, 0]), jnp.zeros_like(values[:, 0]))
    _, advantages = lax.scan(back, end, (rewards.T, values.T, mask.T), reverse=True)
    return {"advantages": advantages.T, "returns": advantages.T + values}


def ppo_policy(
    logps: Array, old_logps: Array, advantages: Array, mask: Array, clip_low: float = 0.2, clip_high: float = 0.2
) -> Outputs:
    log_ratio = jnp.where(mask, logps, 0.0) - jnp.where(mask, old_logps, 0.0)
    advantages = jnp.where(mask, advantages, 0.0)
    ratio = jnp.exp(lax.stop_gradient(log_ratio))
    held = jnp.clip(ratio, 1 - clip_low, 1 + clip_high) * advantages
    clipped = (held < ratio * advantages) & (advantages != 0)
    # Where the loss is flat the ratio may be inf, whose slope times 0 is NaN: there it is not looked at. At a tie
    # jnp.minimum and jnp.clip would share the slope out.
    moves = ~clipped & (advantages != 0)
    free = jnp.exp(jnp.where(moves | jnp.isnan(log_ratio), log_ratio, 0.0)) * advantages
    return {"token_losses": -jnp.where(clipped, held, free), "clipped": clipped}


def ppo_value(values: Array, old_values: Array, returns: Array, mask: Array, clip: float = 0.2) -> Outputs:
    values, old_values, returns = (jnp.where(mask, x, 0.0) for x in (values, old_values, returns))
    errors, held = values - returns, jnp.clip(values, old_values - clip, old_values + clip) - returns
    # At a tie jnp.maximum would share the slope out.
    worst = jnp.where(held**2 > errors**2, lax.stop_gradient(held), errors)
    return {"token_losses": worst**2 / 2}


def grpo(
    logps: Array,
    old_logps: Array,
    reference_logps: Array,
    advantages: Array,
    mask: Array,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    beta: float = 0.04,
) -> Outputs:
    """advantages: [B]."""
    losses = ppo_policy(logps, old_logps, advantages[:, None], mask, clip_low, clip_high)["token_losses"]
    asked = mask & (beta != 0)
    gap = jnp.where(asked, reference_logps, 0.0) - jnp.where(asked, logps, 0.0)
    return {"token_losses": losses + beta * k3(gap)}


def unless_equal(rewards: Array, advantages: Array) -> Outputs:
    """advantages [N,G], 0 in groups all of whose rewards are equal: there only rounding is left."""
    equal = rewards.max(axis=1, keepdims=True) == rewards.min(axis=1, keepdims=True)
    return {"advantages": jnp.where(equal, 0.0, advantages)}


def advantages_grpo(rewards: Array) -> Outputs:
    """rewards: [N,G]."""
    spread = rewards.std(axis=1, ddof=1, keepdims=True) + 1e-4
    return unless_equal(rewards, (rewards - rewards.mean(axis=1, keepdims=True)) / spread)


def advantages_dr_grpo(rewards: Array) -> Outputs:
    """rewards: [N,G]."""
    return unless_equal(rewards, rewards - rewards.mean(axis=1, keepdims=True))


def advantages_rloo(rewards: Array) -> Outputs:
    """rewards: [N,G]."""
    others = (rewards.sum(axis=1, keepdims=True) - rewards) / (rewards.shape[1] - 1)
    return unless_equal(rewards, rewards - others)


def averaged(token_losses: Array, mask: Array, counts: Array | float) -> Outputs:
    """Σ loss / count; the weights are its slopes."""
    loss, weights = jax.value_and_grad(lambda x: (jnp.where(mask, x, 0.0) / counts).sum())(token_losses)
    return {"loss": loss, "weights": weights}


def sequence_mean(token_losses: Array, mask: Array) -> Outputs:
    return averaged(token_losses, mask, len(mask) * mask.sum(axis=1, keepdims=True))


def token_mean(token_losses: Array, mask: Array) -> Outputs:
    return averaged(token_losses, mask, mask.sum())


def constant_mean(token_losses: Array, mask: Array, max_length: float) -> Outputs:
    return averaged(token_losses, mask, len(mask) * max_length)


def overlong_penalty(lengths: Array, max_length: float, cache_length: float) -> Outputs:
    return {"penalties": jnp.clip((max_length - cache_length - lengths) / cache_length, -1.0, 0.0)}


def rejection_acceptance(rewards: Array, beta: float, reward_max: float) -> Outputs:
    return {"acceptance_probabilities": jnp.exp((rewards - reward_max) / beta)}
