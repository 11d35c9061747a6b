"""One training step compared in every number, and the paths that both sides take over many."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tqdm
from flax import nnx
from torch import nn

from kimnet_jax.interop.parity.pair import (
    Arrays,
    Pair,
    call_twin,
    channels_first,
    channels_last,
    draw_inputs,
    network_outputs,
    to_numpy,
)
from kimnet_jax.interop.translation import flatten, translate

Named = dict[str, np.ndarray]
BATCHES = 4  # see `compare_training`
LAG = 12  # steps, see `strayed`
KINK = 1e-2  # what one unit at its kink changes, relative
SMALL = 1e-3  # a gradient is measured against its size, or this share of the largest: one that is zero but for rounding has none


class Step(NamedTuple):
    """Loss and gradients of a batch, and the statistics after it, under our paths."""

    loss: float
    gradients: Named
    statistics: Named


class ArrayError(NamedTuple):
    """Relative error of one array against PyTorch in float64, and PyTorch's own in the precision that is compared."""

    name: str
    error: float
    torch_error: float


class Trajectory(NamedTuple):
    """By step: the losses, and the distance of the parameters from those of float64, relative to how far these have moved."""

    loss: list[float]
    torch_loss: list[float]
    exact_loss: list[float]
    distance: list[float]
    torch_distance: list[float]


class Training(NamedTuple):
    """What `compare_training` gives; arrays are in the order of execution, `gradient` is all of them as one vector."""

    loss: ArrayError
    gradient: ArrayError
    gradients: list[ArrayError]
    statistics: list[ArrayError]
    trajectory: Trajectory


class _Twin:
    """PyTorch's side of the training in one precision."""

    def __init__(self, twin: nn.Module, pair: Pair, dtype: str, learning_rate: float):
        self.twin, self.rules, self.dtype = twin.train(), pair.rules, dtype
        self.optimizer = torch.optim.Adam(twin.parameters(), learning_rate)

    def first(self, inputs: Arrays, targets: Arrays) -> Step:
        """The step without its update."""
        self.optimizer.zero_grad()
        outputs = call_twin(self.twin, inputs, self.dtype)
        precision = torch.float64 if self.dtype == 'float64' else torch.float32
        wanted = [torch.tensor(channels_first(array), dtype=precision) for array in targets]
        loss = torch.stack([((y.to(precision) - t) ** 2).mean() for y, t in zip(outputs, wanted, strict=True)]).sum()
        loss.backward()
        gradients = {key: value.grad.clone() for key, value in self.twin.named_parameters() if value.grad is not None}
        statistics = {key: value.clone() for key, value in self.twin.named_buffers()}
        return Step(float(loss.detach()), self._ours(gradients), self._ours(statistics))

    def step(self, inputs: Arrays, targets: Arrays) -> Step:
        before = self.first(inputs, targets)
        self.optimizer.step()
        return before

    def parameters(self) -> Named:
        """As they are: they change in place."""
        return self._ours(dict(self.twin.named_parameters()))

    def _ours(self, tensors: Mapping[str, torch.Tensor]) -> Named:
        return translate({key: value.detach().numpy() for key, value in tensors.items()}, self.rules)


class _Model:
    """Ours, one compiled program."""

    def __init__(self, pair: Pair, targets: Arrays, optimizer: Any):
        pair.model.train()
        pair.model.set_attributes(deterministic=True, raise_if_not_found=False)  # no dropout
        graph, params, statistics, rest = nnx.split(pair.model, nnx.Param, nnx.BatchStat, ...)  # type: ignore[misc]
        self.state = (params, statistics, optimizer.init(params))

        def step(state: Any, inputs: Arrays) -> Any:
            params, statistics, momentum = state

            def objective(params: nnx.State) -> tuple[jax.Array, nnx.State]:
                model = nnx.merge(graph, params, statistics, rest, copy=True)
                outputs = network_outputs(model(*inputs))
                loss = sum(jnp.mean((y.astype(jnp.float32) - t) ** 2) for y, t in zip(outputs, targets, strict=True))
                return jnp.asarray(loss), nnx.state(model, nnx.BatchStat)

            (loss, statistics), gradients = jax.value_and_grad(objective, has_aux=True)(params)
            updates, momentum = optimizer.update(gradients, momentum, params)
            return (jax.tree.map(jnp.add, params, updates), statistics, momentum), loss, gradients

        self._step = jax.jit(step)

    def first(self, inputs: Arrays) -> Step:
        """The step from here; nothing changes."""
        state, loss, gradients = self._step(self.state, inputs)
        return Step(float(loss), *(_named(tree) for tree in (gradients, state[1])))

    def step(self, inputs: Arrays) -> float:
        """Takes the step and returns the loss before it."""
        self.state, loss, _ = self._step(self.state, inputs)
        return float(loss)

    def parameters(self) -> Named:
        return _named(self.state[0])


def _named(state: Any) -> Named:
    return {path: np.asarray(leaf[...]) for path, leaf in flatten(state).items()}


def compare_training(pair: Pair, *, steps: int, optimizer: Any, learning_rate: float, tolerance: float) -> Training:
    """Trains ours and PyTorch's twin, in the precision of the pair and in float64, with the mean squared error of a fixed target.

    A unit within rounding of its kink (of a ReLU, of a maximum) makes a gradient jump on either side, by about 1 % in a small
    network. On another batch it is another unit, or none; a wrong gradient is wrong on every batch. So a parameter whose gradient
    is off is given up to `BATCHES` batches, and the best counts.

    Args:
        pair: its networks are changed.
        steps: at least 1, all on the first batch.
        optimizer: Adam with `learning_rate`, an optax transformation.
        tolerance: of the gradients.
    """
    with torch.no_grad():
        outputs = call_twin(pair.exact, pair.inputs, 'float64')
    draw = np.random.default_rng(0)
    targets = tuple(draw.standard_normal(channels_last(to_numpy(y)).shape, np.float32) for y in outputs)
    exact = _Twin(pair.exact, pair, 'float64', learning_rate)
    twin = _Twin(pair.twin, pair, pair.dtype, learning_rate)
    model = _Model(pair, targets, optimizer)

    shapes = [array.shape for array in pair.inputs]
    gradients: list[ArrayError] = []
    for number in range(BATCHES):
        inputs = draw_inputs(shapes, number)
        reference, theirs, ours = exact.first(inputs, targets), twin.first(inputs, targets), model.first(inputs)
        sizes = {path: float(np.linalg.norm(array)) for path, array in reference.gradients.items()}
        floor = SMALL * max(sizes.values())
        errors = _errors(ours.gradients, theirs.gradients, reference.gradients, sizes, floor)
        if number == 0:
            gradients = errors
            whole = _whole(ours.gradients, theirs.gradients, reference.gradients)
            statistics = _errors(ours.statistics, theirs.statistics, reference.statistics)
            loss = ArrayError('loss', *(abs(side.loss - reference.loss) / abs(reference.loss) for side in (ours, theirs)))
            moving = [path for path, size in sizes.items() if size > floor]
        pairs = zip(gradients, errors, strict=True)
        gradients = [ArrayError(a.name, min(a.error, b.error), min(a.torch_error, b.torch_error)) for a, b in pairs]
        if all(error.error <= tolerance for error in gradients):
            break

    start = {path: array.copy() for path, array in exact.parameters().items()}
    trajectory = Trajectory([], [], [], [], [])
    for _ in tqdm.trange(steps, desc='steps', leave=False, disable=None):
        losses = (model.step(pair.inputs), twin.step(pair.inputs, targets).loss, exact.step(pair.inputs, targets).loss)
        reached = exact.parameters()
        moved = _distance(reached, start, moving)
        distances = (_distance(side.parameters(), reached, moving) / moved for side in (model, twin))
        for values, value in zip(trajectory, (*losses, *distances), strict=True):
            values.append(value)
    return Training(loss, whole, gradients, statistics, trajectory)


def _errors(
    ours: Named, theirs: Named, references: Named, sizes: Mapping[str, float] | None = None, floor: float = 0.0
) -> list[ArrayError]:
    errors = []
    for path, reference in references.items():
        size = max(float(np.linalg.norm(reference)) if sizes is None else sizes[path], floor) or 1.0
        found = (float(np.linalg.norm(side[path] - reference)) / size if path in side else math.inf for side in (ours, theirs))
        errors.append(ArrayError(path, *found))
    return errors


def _whole(ours: Named, theirs: Named, references: Named) -> ArrayError:
    zeros = {path: np.zeros_like(array) for path, array in references.items()}
    size = _distance(references, zeros, references)
    return ArrayError('gradient', *(_distance(zeros | side, references, references) / size for side in (ours, theirs)))


def _distance(ours: Named, references: Named, paths: Iterable[str]) -> float:
    return math.sqrt(sum(float(np.sum((ours[path] - references[path]) ** 2, dtype=np.float64)) for path in paths))


def strayed(trajectory: Trajectory, margin: float) -> int | None:
    """The first step after which our parameters are further from float64's than rounding explains, or None.

    Rounding errors grow from step to step, in either framework at the same rate, and jump when the first unit crosses its kink,
    which may be a dozen steps sooner or later. So PyTorch's own distance `LAG` steps on, times `margin`, is the yardstick.
    """
    for step, distance in enumerate(trajectory.distance):
        if not distance <= max(KINK, margin * max(trajectory.torch_distance[: step + 1 + LAG])):
            return step
    return None
