"""A folded network gives the heatmaps of the one it was made of."""

import golden
import jax
import numpy as np
import pytest
from flax import nnx

from kimnet_jax.models import VIDEO_MODELS, build_model, model_fields
from kimnet_jax.models.folding import fold
from kimnet_jax.models.layers import BatchNorm

pytestmark = pytest.mark.quick_compilation

SIZE, JOINTS = 64, 3


def network(name: str, **fields: object) -> nnx.Module:
    fields = model_fields(name, 'tiny') | fields
    model = golden.randomised(lambda: build_model(fields, num_joints=JOINTS))
    model.eval()
    return model


def norms(model: nnx.Module) -> set[str]:
    return {'.'.join(map(str, path)) for path, node in nnx.iter_graph(model) if isinstance(node, BatchNorm)}


@jax.jit
def streams(models, frames):
    """Heatmaps of two frames, by every model."""

    def stream(model):
        first, state = model.init_state(frames[:, 0])
        return first, model.step(state, frames[:, 1])[0]

    return [stream(nnx.merge(*model)) for model in models]


# what no convolution precedes, and what follows a dynamic convolution or another network's sum
KEPT = {
    'kimnet': {f'transition.relation_decoder.{name}' for name in ('bn_w', 'bn_u')},  # two BatchNorms follow conv_w
    'rpstn': {
        f'transition.jrpsp.{path}'
        for path in ('dkd.bn.2', 'dkd.kernel_generator.bns.0', 'relation_decoder.bn_w', 'relation_decoder.bn_u')
    },
    'dkd': {'transition.temporal.bn.2', 'transition.temporal.kernel_generator.bns.0'},
}


@pytest.mark.parametrize('name', VIDEO_MODELS)
def test_heatmaps_stay(name):
    fields = {'remat': True} if name == 'kimnet' else {}
    model = network(name, **fields)
    before = norms(model)
    folded = fold(model, SIZE)
    assert norms(model) == before  # a copy
    if name == 'hourglass':  # of a residual block, the first BatchNorm reads the sum of the one before
        assert {path.rpartition('.')[2] for path in norms(folded)} == {'bn1'}
    else:
        assert norms(folded) == KEPT.get(name, set())
    if not before:
        return
    frames = np.random.default_rng(0).standard_normal((1, 2, SIZE, SIZE, 3), np.float32)
    expected, found = streams([nnx.split(model), nnx.split(folded)], frames)
    for theirs, ours in zip(expected, found, strict=True):
        assert golden.relative_error(ours, theirs) < 1e-5
