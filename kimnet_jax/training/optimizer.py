"""Adam, AdamW and the learning rate schedules of the papers, of the predecessor's release, and ours."""

import dataclasses
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import optax

from kimnet_jax.core.config import check_ranges
from kimnet_jax.core.errors import InputError

Schedule: TypeAlias = Literal['constant', 'cosine', 'step', 'released']


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How the weights are updated. Raises `InputError` naming the field that is out of range.

    Attributes:
        schedule: `constant` (the paper names no decay), `cosine` (linear warm-up, then cosine to `final_rate`), `step`
            (SimpleBaseline: a tenth of the rate from each of `drop_epochs` on) or `released` (RPSTN: the rate drops by 10 to the
            power of i + 1 during the single epoch `drop_epochs[i]` and is back afterwards).
        learning_rate: of Adam, its peak.
        warmup_epochs: of `cosine`.
        drop_epochs: of `step` and `released`, counted from 0.
        final_rate: the rate at the end of `cosine`, share of the peak.
        weight_decay: share of each weight that an update takes off at a rate of 1 (AdamW); 0: Adam.
        amsgrad: AMSGrad: what an update is divided by never falls again.
        clip_norm: largest global norm of the gradient; 0: no clipping.
        accumulate: batches whose mean gradient makes one update.
    """

    schedule: Schedule = 'cosine'
    learning_rate: float = 1e-3
    warmup_epochs: float = 1.0
    drop_epochs: tuple[int, ...] = (8, 15, 25, 40, 80)
    final_rate: float = 0.0
    weight_decay: float = 0.0
    amsgrad: bool = False
    clip_norm: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        largest = 3e38  # of float32
        check_ranges('optimizer', self, learning_rate=(1e-30, largest), clip_norm=(0, largest), weight_decay=(0, largest))
        check_ranges('optimizer', self, warmup_epochs=(0, 1e9), final_rate=(0, 1), accumulate=(1, 1_000_000))
        check_ranges('optimizer', self, drop_epochs=(0, 1_000_000_000))
        if list(self.drop_epochs) != sorted(set(self.drop_epochs)):
            raise InputError(f'config.optimizer.drop_epochs={self.drop_epochs}: must be epochs, each after the one before')


def make_schedule(config: OptimizerConfig, *, steps: int, steps_per_epoch: float) -> optax.Schedule:
    """Learning rate as a function of the number of updates; `steps` and `steps_per_epoch` count batches.

    Raises `InputError` where the run is too short for one update.
    """
    if steps < config.accumulate:
        raise InputError(f'config.optimizer.accumulate={config.accumulate}: the run has only {steps} batches, so no update')
    updates, per_epoch = steps // config.accumulate, steps_per_epoch / config.accumulate
    peak = config.learning_rate
    if config.schedule == 'constant':
        return optax.constant_schedule(peak)
    if config.schedule == 'cosine':
        warmup = min(round(config.warmup_epochs * per_epoch), updates // 2)
        return optax.warmup_cosine_decay_schedule(0.0 if warmup else peak, peak, warmup, updates, peak * config.final_rate)

    def dropping(count: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.floor(count / per_epoch)
        rate = jnp.asarray(peak)
        for i, drop in enumerate(config.drop_epochs):
            if config.schedule == 'step':
                rate = jnp.where(epoch >= drop, 0.1 * rate, rate)
            else:
                rate = jnp.where(epoch == drop, peak * 0.1 ** (i + 1), rate)
        return rate

    return dropping


def make_optimizer(config: OptimizerConfig, schedule: optax.Schedule) -> optax.GradientTransformation:
    """Clipping, Adam or AdamW, and accumulation."""
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity()
    if config.amsgrad:
        decay = optax.add_decayed_weights(config.weight_decay)
        adam = optax.chain(_scale_by_amsgrad(), decay, optax.scale_by_learning_rate(schedule))
    elif config.weight_decay > 0:
        adam = optax.adamw(schedule, weight_decay=config.weight_decay)
    else:
        adam = optax.adam(schedule)
    chain = optax.chain(clip, adam)
    if config.accumulate == 1:
        return chain
    steps = optax.MultiSteps(chain, config.accumulate)
    return steps.gradient_transformation()


def _scale_by_amsgrad(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """AMSGrad as PyTorch has it: the largest mean square so far is found before the bias is corrected; Optax's after it."""

    def update(
        gradient: optax.Updates, state: optax.ScaleByAmsgradState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.ScaleByAmsgradState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(gradient, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(gradient, state.nu, b2, 2)
        largest = jax.tree.map(jnp.maximum, state.nu_max, nu)
        mean, square = optax.tree.bias_correction(mu, b1, count), optax.tree.bias_correction(largest, b2, count)
        updates = jax.tree.map(lambda m, s: m / (jnp.sqrt(s) + eps), mean, square)
        return updates, optax.ScaleByAmsgradState(count, mu, nu, largest)

    return optax.GradientTransformation(optax.scale_by_amsgrad().init, update)
