"""XLA compiles the blocks for a GPU that is not there."""

import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Ahead of time, for the description of an H100; without autotuning, which needs the device itself.
COMPILE = '''
import sys

import jax
import jax.numpy as jnp
from flax import nnx
from jax._src import xla_bridge
from jax.experimental import topologies

from kimnet_jax.core.platform import compiled_for
from kimnet_jax.models.pose_resnet import Bottleneck

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
xla_bridge._discover_and_register_pjrt_plugins()
canonical = xla_bridge.canonicalize_platform
xla_bridge.canonicalize_platform = lambda name: 'cuda' if name in ('cuda', 'gpu') else canonical(name)
target = topologies.get_topology_desc(platform='cuda', topology_name='', target_config=H100, topology='1x1x1').devices[0]
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
'''


@pytest.mark.skipif(not importlib.util.find_spec('jax_cuda13_plugin'), reason='the CUDA plugin of JAX is not installed')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_two_residual_blocks_with_a_stride_compile_for_a_gpu(dtype):
    """XLA's compiler aborts the process where the strided shortcut is the product of a slice."""
    flags = {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_gpu_autotune_level=0', 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', COMPILE, dtype], capture_output=True, text=True, env=os.environ | flags, check=False
    )
    assert (done.returncode, done.stdout) == (0, 'compiled True\n'), done.stderr[-2000:]
