"""A train step, compiled for devices that are not there."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from kimnet_jax.core.errors import InputError
from kimnet_jax.core.platform import compiled_for
from kimnet_jax.core.skeleton import Skeleton
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.models import abstract_model, check_input_size
from kimnet_jax.tasks import heatmaps
from kimnet_jax.tasks.fit import make_stepping
from kimnet_jax.training import loop, operations, sharding, steps
from kimnet_jax.training.chips import Topology
from kimnet_jax.training.state import create_state, placements, split_model

# of an H100 SXM with 80 GB, as XLA asks for it
_H100 = """
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
_LIBTPU = {  # environment of libtpu, on a machine that is no TPU's
    'TPU_SKIP_MDS_QUERY': '1',  # it would ask Google's network which machine this is
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',  # it uses no device
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',  # what it complains of otherwise; the topology counts
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}
COMPILERS = {'gpu': 'jax-cuda13-plugin', 'tpu': 'libtpu'}  # platform -> package
_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


class Memory(NamedTuple):
    """Bytes on a device. Attributes:
    arguments: the state and the batch.
    results: that are not written over arguments.
    temporary: the rest that the step needs while it runs.
    code: of the program.
    """

    arguments: int
    results: int
    temporary: int
    code: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self)


class Step(NamedTuple):
    """A train step, compiled. Attributes:
    seconds: that tracing and compiling took.
    flops: of the convolutions and products, of all devices together, loops by their length.
    memory: that it takes; None where it does not fit.
    needed: bytes that the compiler says it needs.
    costs: the compiler's own count.
    text: the optimised HLO; '' where it does not fit.
    """

    seconds: float
    flops: int
    memory: Memory | None
    needed: int
    costs: Mapping[str, float]
    text: str


def devices_of(topology: Topology) -> Sequence[jax.Device]:
    """The devices, for programs to be compiled for. From then on, this process has no others but CPUs.

    Raises `InputError` where their compiler is not installed, or knows no such devices.
    """
    gpu = topology.chip.platform == 'gpu'
    try:
        if gpu:
            import jax_cuda13_plugin  # noqa: F401
        else:
            import libtpu  # noqa: F401
    except ImportError:
        what, extra = ("JAX's compiler for GPUs", 'gpu') if gpu else ('libtpu, the compiler for TPUs,', 'plan')
        raise InputError(f"{what} is needed for {topology.text}: pip install 'kimnet-jax[{extra}]'") from None
    config: Any = jax.config
    config.update('jax_platforms', 'cpu')  # the devices of this machine are left alone
    config.update('jax_enable_compilation_cache', False)
    config.update('jax_traceback_in_locations_limit', -1)  # `hlo.Program.functions`
    try:
        return _gpus(topology) if gpu else _tpus(topology)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise InputError(f'--topology={topology.text}: {_first_line(error)}') from error


def _tpus(topology: Topology) -> Sequence[jax.Device]:
    os.environ.update(_LIBTPU)
    given: dict[str, Any] = {}
    if topology.text.startswith('v4'):
        given['chip_config_name'] = 'megacore'  # the two cores of a chip are one device, as on Cloud TPU
    if topology.chips < 4:
        given['chips_per_host_bounds'] = [*topology.shape, 1][:3]
    return topologies.get_topology_desc(platform='tpu', topology_name=topology.text, **given).devices


def _gpus(topology: Topology) -> Sequence[jax.Device]:
    autotuning = '--xla_gpu_autotune_level=0'  # needs the device itself
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {autotuning}'.strip()
    jax.devices()  # JAX finds its plugins
    inside = min(topology.chips, 8)
    shape = f'1x{topology.chips // inside}x{inside}'
    return topologies.get_topology_desc(platform='cuda', topology_name='', target_config=_H100, topology=shape).devices


def batch_shapes(data: DataConfig, batch_size: int, joints: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the loader puts on the devices for a step, `loop.DEVICE_KEYS`."""
    rows, size = (batch_size, data.frames), data.input_size
    return {
        'frames': jax.ShapeDtypeStruct((*rows, size, size, 3), 'uint8'),
        'joints': jax.ShapeDtypeStruct((*rows, joints, 2), 'float32'),
        'visible': jax.ShapeDtypeStruct((*rows, joints), 'bool'),
        'mask': jax.ShapeDtypeStruct(rows, 'bool'),
    }


def trace_step(settings: heatmaps.Settings, skeleton: Skeleton, mesh: Mesh) -> Any:
    """The train step of a config as JAX traces it (`jax.stages.Traced`), by the code that trains."""
    with compiled_for(sharding.platform(mesh)):
        model = abstract_model(settings.model, num_joints=skeleton.num_joints, dtype=settings.dtype)
        check_input_size(model, settings.data.input_size)
    stepping = make_stepping(settings, loop.make_plan(100 * settings.train.batch_size, settings.train), mesh)
    graph, weights = split_model(model, training=True)
    step: Any = steps.make_train_step(graph, stepping, settings.target, skeleton=skeleton, stride=model.stride)
    average = settings.train.average_decay > 0
    state = jax.eval_shape(lambda weights: create_state(weights, stepping.optimizer, average=average), weights)
    state = jax.tree.map(
        lambda array, sharding: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), state, placements(state, mesh)
    )
    return step.trace(state, batch_shapes(settings.data, settings.train.batch_size, skeleton.num_joints))


def compile_apart(settings: heatmaps.Settings, skeleton: Skeleton, topology: Topology) -> Step:
    """`compile_step` in a process of its own, which a compiler that finds itself at fault ends. Raises `InputError`."""
    context = multiprocessing.get_context('spawn')
    with tempfile.NamedTemporaryFile() as said:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(theirs, said.name, settings, skeleton, topology), daemon=True)
        process.start()
        theirs.close()
        try:
            answer = ours.recv()
        except EOFError:
            answer = None
        process.join()
        if isinstance(answer, InputError):
            raise answer
        if answer is not None:
            return answer
        raise InputError(f'the compiler failed: {ending(said.read().decode(errors="replace"), process.exitcode)}')


def ending(said: str, status: int | None) -> str:
    """What a process that ended without an answer said last, in a line: XLA's fatal error or Python's."""
    fatal = re.findall(r'^F\d{4} [\d:.]+ +\d+ (.+)$', said, re.MULTILINE)
    raised = re.findall(r'^[A-Za-z_.]+(?:Error|Exception): .+$', said, re.MULTILINE)
    return (fatal[:1] or raised[-1:] or [f'its process ended with status {status}'])[0].strip()[:300]


def _work(connection: Connection, said: str, settings: heatmaps.Settings, skeleton: Skeleton, topology: Topology) -> None:
    with open(said, 'ab') as file:
        os.dup2(file.fileno(), 2)  # compilers write at length
    try:
        connection.send(compile_step(settings, skeleton, topology))
    except InputError as error:
        connection.send(error)


def compile_step(settings: heatmaps.Settings, skeleton: Skeleton, topology: Topology) -> Step:
    """The train step of a config, compiled. Raises `InputError`."""
    mesh = sharding.make_mesh(devices_of(topology))
    began = time.perf_counter()
    traced = trace_step(settings, skeleton, mesh)
    flops = operations.total_flops(traced.jaxpr)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_memory(str(error))
        if needed is None:
            raise InputError(f'the compiler failed: {_first_line(error)}') from error
        return Step(time.perf_counter() - began, flops, None, needed, {}, '')
    seconds, found = time.perf_counter() - began, compiled.memory_analysis()
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    memory = Memory(found.argument_size_in_bytes, results, found.temp_size_in_bytes, found.generated_code_size_in_bytes)
    if memory.total > topology.chip.hbm:  # the compiler for GPUs does not refuse it
        return Step(seconds, flops, None, memory.total, {}, '')
    costs = {key: value for key, value in (compiled.cost_analysis() or {}).items() if key in ('flops', 'bytes accessed')}
    return Step(seconds, flops, memory, memory.total, costs, compiled.as_text())


def needed_memory(message: str) -> int | None:
    """Bytes that a program needs, of the compiler's message that they are not there; None of another message."""
    if 'RESOURCE_EXHAUSTED' not in message:
        return None
    found = re.search(r'Used ([\d.]+)([KMGT]?) of|\(([\d.]+)([KMGT]?)\) exceeds available HBM', message)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * _UNITS[unit])


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
