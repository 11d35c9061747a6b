"""Learning rates, epoch by epoch, worked by hand."""

import math

import golden
import jax
import numpy as np
import optax
import pytest
import torch

from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule


def rates(config: OptimizerConfig, counts, *, steps=40, steps_per_epoch=4.0) -> list[float]:
    schedule = make_schedule(config, steps=steps, steps_per_epoch=steps_per_epoch)
    return [float(schedule(count)) for count in counts]


def test_constant():
    assert rates(OptimizerConfig(schedule='constant', learning_rate=0.5), [0, 7, 39]) == [0.5] * 3


def test_cosine_with_warmup():
    # one epoch of 4 updates from 0 to the peak, then half a cosine over the other 36
    found = rates(OptimizerConfig(schedule='cosine', learning_rate=1.0, warmup_epochs=1.0), [0, 1, 2, 3, 4, 13, 22, 31, 40])
    expected = [0, 0.25, 0.5, 0.75, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5, (1 + math.cos(3 * math.pi / 4)) / 2, 0]
    assert found == pytest.approx(expected, abs=1e-6)


def test_cosine_without_warmup_and_with_one_longer_than_the_run():
    assert rates(OptimizerConfig(learning_rate=1.0, warmup_epochs=0.0), [0, 20, 40]) == pytest.approx([1, 0.5, 0], abs=1e-6)
    # at most half of the run: 20 updates
    assert rates(OptimizerConfig(learning_rate=1.0, warmup_epochs=99.0), [0, 10, 20, 40]) == pytest.approx(
        [0, 0.5, 1, 0], abs=1e-6
    )


def test_released_drops_for_single_epochs():
    config = OptimizerConfig(schedule='released', learning_rate=5e-4, drop_epochs=(1, 3, 4))
    found = rates(config, range(0, 24, 4))  # the first update of each epoch
    assert found == pytest.approx([5e-4, 5e-5, 5e-4, 5e-6, 5e-7, 5e-4])
    assert rates(config, [3, 4, 7, 8]) == pytest.approx([5e-4, 5e-5, 5e-5, 5e-4])  # the borders of epoch 1


def test_step_stays_low():
    config = OptimizerConfig(schedule='step', learning_rate=1e-3, drop_epochs=(2, 5))
    assert rates(config, [0, 7, 8, 19, 20, 39]) == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])  # 4 updates an epoch


def test_accumulation_counts_updates():
    # 40 batches are 20 updates, 2 an epoch
    config = OptimizerConfig(learning_rate=1.0, warmup_epochs=1.0, accumulate=2)
    assert rates(config, [0, 1, 2, 11, 20]) == pytest.approx([0, 0.5, 1, 0.5, 0], abs=1e-6)
    config = OptimizerConfig(schedule='released', learning_rate=1.0, drop_epochs=(1,), accumulate=2)
    assert rates(config, [1, 2, 3, 4]) == pytest.approx([1, 0.1, 0.1, 1])


@pytest.mark.parametrize(
    ('field', 'value'),
    [('schedule', 'linear'), ('learning_rate', 0.0), ('warmup_epochs', -1.0), ('clip_norm', -1.0), ('accumulate', 0)],
)
def test_bad_field(field, value):
    with pytest.raises(InputError, match=f'config.optimizer.{field}='):
        make(OptimizerConfig, {field: value}, 'optimizer', partial=True)


def test_run_too_short_for_one_update():
    with pytest.raises(InputError, match='accumulate=8: the run has only 5 batches'):
        make_schedule(OptimizerConfig(accumulate=8), steps=5, steps_per_epoch=1)


def test_amsgrad_is_that_of_pytorch():
    """HANet's release has torch.optim.AdamW(amsgrad=True); gradients get smaller, so that the largest mean square matters."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 5)).astype(np.float32)
    gradients = [(rng.normal(size=(3, 5)) * scale).astype(np.float32) for scale in (1e-3, 1.0, 1e-2, 1e-4, 0.0, 1e-1, 1e-3)]
    theirs = torch.nn.Parameter(torch.from_numpy(weights.copy()))
    adamw = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, amsgrad=True)
    config = OptimizerConfig(schedule='constant', weight_decay=0.1, amsgrad=True, clip_norm=0.0)
    optimizer = make_optimizer(config, optax.constant_schedule(1e-2))
    state, update = optimizer.init(weights), jax.jit(optimizer.update)
    ours = weights
    for gradient in gradients:
        theirs.grad = torch.from_numpy(gradient)
        adamw.step()
        updates, state = update(gradient, state, ours)
        ours = ours + np.asarray(updates)
        assert golden.relative_error(ours, theirs.detach().numpy()) < 1e-6
