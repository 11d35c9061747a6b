"""XLA compiles the blocks for a GPU that is not there."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMPILE = """
import sys

import jax
import jax.numpy as jnp
from flax import nnx

from kimnet_jax.core.platform import compiled_for
from kimnet_jax.models.pose_resnet import Bottleneck
from kimnet_jax.tasks.ahead_of_time import devices_of
from kimnet_jax.training.chips import parse_topology

(target,) = devices_of(parse_topology('h100x1'))
place = jax.sharding.SingleDeviceSharding(target)
dtype = jnp.dtype(sys.argv[1])


class Pair(nnx.Module):
    def __init__(self, rngs):
        self.first = Bottleneck(64, 16, 1, dtype, rngs)
        self.second = Bottleneck(64, 32, 2, dtype, rngs)


graph, state = nnx.split(nnx.eval_shape(lambda: Pair(nnx.Rngs(0))))


def loss(state, x):
    pair = nnx.merge(graph, state)
    with compiled_for('gpu'):
        return pair.second(pair.first(x)).astype(jnp.float32).mean()


x = jax.ShapeDtypeStruct((8, 16, 16, 64), dtype)
compiled = jax.jit(jax.grad(loss), in_shardings=place, out_shardings=place).lower(state, x).compile()
print('compiled', 'convBackwardFilter' in compiled.as_text())
"""


@pytest.mark.skipif(not importlib.util.find_spec('jax_cuda13_plugin'), reason='the CUDA plugin of JAX is not installed')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_two_residual_blocks_with_a_stride_compile_for_a_gpu(dtype):
    """XLA's compiler aborts the process where the strided shortcut is the product of a slice."""
    flags = {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE, dtype], capture_output=True, text=True, env=os.environ | flags, check=False
    )
    assert (done.returncode, done.stdout) == (0, 'compiled True\n'), done.stderr[-2000:]
