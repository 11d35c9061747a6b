"""What a training will need: its own train step, compiled for devices that are not there."""

import dataclasses
import importlib.metadata
import inspect
import math
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from kimnet_jax import losses, metrics
from kimnet_jax.core import heatmap
from kimnet_jax.core.config import make
from kimnet_jax.core.errors import InputError
from kimnet_jax.core.image import normalise
from kimnet_jax.core.platform import compiled_for
from kimnet_jax.core.skeleton import JHMDB, LSP, MPII, PENN_ACTION, POSETRACK, Skeleton
from kimnet_jax.data_pipelines.clip_source import DatasetConfig
from kimnet_jax.data_pipelines.transforms import DataConfig
from kimnet_jax.models import (
    KMM,
    LSTMPM,
    MODELS,
    RPSTN,
    KIMNet,
    PerFrame,
    abstract_model,
    check_input_size,
    count_parameters,
    model_fields,
    network_name,
)
from kimnet_jax.models.chain import ChainNetwork, encode_clip, run_chain
from kimnet_jax.models.conv_lstm import ConvLSTM
from kimnet_jax.models.dkd import DKD
from kimnet_jax.models.dkd_net import DKDNet
from kimnet_jax.models.jrpsp import JRPSP
from kimnet_jax.models.kimnet import Fusion
from kimnet_jax.models.relation_decoder import RelationDecoder
from kimnet_jax.models.temporal import TemporalModule
from kimnet_jax.tasks import heatmaps, name_of
from kimnet_jax.tasks.fit import make_stepping
from kimnet_jax.training import hlo, loop, operations, sharding, steps
from kimnet_jax.training.chips import Chip, Topology
from kimnet_jax.training.state import create_state, placements, split_model

SCALED = (8, 16, 32, 64, 128, 256)  # chips of the table of weak scaling
_SKELETONS = {  # of the data sets with one skeleton, which need not be built yet
    'sub_jhmdb': JHMDB,
    'penn_action': PENN_ACTION,
    'posetrack': POSETRACK,
    'mpii': MPII,
    'lsp': LSP,
    'kinetic_puppets/joints15': JHMDB,
    'kinetic_puppets/joints13': PENN_ACTION,
}
_UNNAMED = 'rest of the program'


def _names(of: Any) -> list[str]:
    """Qualified names of a function, or of those of a class."""
    functions = [one for one in vars(of).values() if inspect.isfunction(one)] if inspect.isclass(of) else [of]
    return [function.__qualname__ for function in functions]


_PARTS: dict[str, tuple[Any, ...]] = {  # part -> functions, or classes, that run in it; the first part that fits counts
    'input preparation': (normalise,),
    'relation decoder': (RelationDecoder,),
    'temporal module': (TemporalModule, KMM, DKD, JRPSP, ConvLSTM),
    'fusion': (Fusion,),
    'pose initializer': tuple(network.begin for network in (KIMNet, RPSTN, DKDNet, LSTMPM)),
    'feature encoder': (ChainNetwork.encode, encode_clip),
    'chain': (run_chain,),
    'network': (PerFrame.__call__, ChainNetwork.__call__),
    'loss': (losses.heatmap_loss,),
    'training metrics': (heatmap.decode, metrics.torso_length, metrics.pck_state, metrics.Ratio.pool),
    'optimizer': (steps.Stepping.advance,),
}
_FUNCTIONS = {name: [function for one in known for function in _names(one)] for name, known in _PARTS.items()}
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
_COMPILERS = {'gpu': 'jax-cuda13-plugin', 'tpu': 'libtpu'}
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


def plan(
    config: Mapping[str, Any],
    topology: Topology,
    *,
    batch_per_chip: int | None = None,
    largest: bool = False,
    verify: bool = False,
) -> dict[str, Any]:
    """What a training of a config needs on a topology, for `reporting.plan.render`; plain data.

    Args:
        config: of a network of videos (`heatmaps.Settings`).
        topology: the devices.
        batch_per_chip: None: `train.batch_size` is split.
        largest: estimate the largest batch, too, with and without `model.remat`; three compilations more.
        verify: compile with these batches; at most two compilations more.

    Raises:
        InputError: on a config that could not be trained so, devices that the compiler does not know, a compiler that is not
            installed, or fails.
    """
    if MODELS[name_of(config)].reads != 'frames':
        raise InputError(f'config.model.name={name_of(config)!r}: only networks of videos can be planned')
    settings = make(heatmaps.Settings, config)
    if batch_per_chip is None:
        if settings.train.batch_size % topology.chips:
            raise InputError(
                f'config.train.batch_size={settings.train.batch_size}: not a multiple of the {topology.chips} chips of '
                f'{topology.text}; give --batch_per_chip'
            )
        batch_per_chip = settings.train.batch_size // topology.chips
    loop.sharing_devices(settings.train.batch_norm, topology.chips)
    skeleton = skeleton_of(settings.dataset)
    chip = topology.chip

    def compiled(batch: int, remat: bool) -> Step:
        return compile_apart(_with(settings, batch * topology.chips, remat), skeleton, topology)

    remat = bool(settings.model.get('remat', False))
    step = compiled(batch_per_chip, remat)
    with compiled_for(chip.platform):
        model = abstract_model(settings.model, num_joints=skeleton.num_joints, dtype=settings.dtype)
    result: dict[str, Any] = {
        'network': network_name(model),
        'preset': _preset(settings.model),
        'parameters': count_parameters(model),
        'dtype': str(model.dtype),
        'data': {'dataset': settings.dataset.name, 'frames': settings.data.frames, 'input_size': settings.data.input_size},
        'batch_norm': settings.train.batch_norm,
        'remat': remat,
        'topology': topology.text,
        'chip': chip.label,
        'chips': topology.chips,
        'batch_per_chip': batch_per_chip,
        'versions': {name: importlib.metadata.version(name) for name in ('jax', 'jaxlib', _COMPILERS[chip.platform])},
        'seconds': round(step.seconds, 1),
        'memory': {
            'available': chip.hbm,
            'needed': step.needed,
            'fits': step.memory is not None,
            'parts': None if step.memory is None else step.memory._asdict(),
        },
    }
    if step.text:
        result |= _readings(step, topology, batch_per_chip * settings.data.frames)
    if largest:
        result['largest'] = _largest(compiled, step, batch_per_chip, remat, chip, verify, has_remat='remat' in settings.model)
    return result


def skeleton_of(dataset: DatasetConfig) -> Skeleton:
    """The joints of a data set, built or not; of one's own, as it was built. Raises `InputError`."""
    for name in (dataset.name, f'{dataset.name}/{dataset.config}'):
        if name in _SKELETONS:
            return _SKELETONS[name]
    return dataset.open('train').skeleton


def batch_shapes(data: DataConfig, batch_size: int, joints: int) -> dict[str, jax.ShapeDtypeStruct]:
    """What the loader puts on the devices for a step, `loop.DEVICE_KEYS`."""
    rows, size = (batch_size, data.frames), data.input_size
    return {
        'frames': jax.ShapeDtypeStruct((*rows, size, size, 3), 'uint8'),
        'joints': jax.ShapeDtypeStruct((*rows, joints, 2), 'float32'),
        'visible': jax.ShapeDtypeStruct((*rows, joints), 'bool'),
        'mask': jax.ShapeDtypeStruct(rows, 'bool'),
    }


def part(program: hlo.Program, instruction: hlo.Instruction) -> str:
    """To which part of the step an instruction belongs; of gradients, with ` (backward)`."""
    return hlo.part_of(program.functions(instruction), instruction.op_name, _FUNCTIONS, _UNNAMED)


def _with(settings: heatmaps.Settings, batch_size: int, remat: bool) -> heatmaps.Settings:
    train = dataclasses.replace(settings.train, batch_size=batch_size, profile='')  # whose steps need not be there
    model = {**settings.model, 'remat': remat} if 'remat' in settings.model else settings.model
    return dataclasses.replace(settings, train=train, model=model)


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


def _readings(step: Step, topology: Topology, frames: int) -> dict[str, Any]:
    """What the text of a program says; `frames`: that a device sees in a step."""
    program, chip, chips = hlo.Program(step.text), topology.chip, topology.chips
    collectives = program.collectives()
    size = sum(found.bytes / (1 if kind == 'all-reduce' else 2) for kind, found in collectives.items())  # others are half of one
    synchronous = sum(kind.number - kind.asynchronous for kind in collectives.values())
    dependent = program.dependent_collectives()
    cycles = program.cycles(lambda line: part(program, line))
    flops, moved = step.flops / chips, program.traffic()
    floor = max(flops / chip.peak, moved / chip.hbm_bandwidth)
    estimate = sum(cycles.values()) / chip.clock if cycles and chip.clock else None
    waits = max(dependent, synchronous)
    return {
        'collectives': {kind: found._asdict() for kind, found in collectives.items()},
        'dependent_collectives': dependent,
        'waits': waits,
        'cycles': cycles,
        'clock': chip.clock,
        'roofline': {
            'flops': flops,
            'bytes': moved,
            'peak': chip.peak,
            'bandwidth': chip.hbm_bandwidth,
            'compute_ms': 1e3 * flops / chip.peak,
            'memory_ms': 1e3 * moved / chip.hbm_bandwidth,
            'compiler_flops': step.costs.get('flops'),
            'compiler_bytes': step.costs.get('bytes accessed'),
        },
        'compute_ms': 1e3 * (floor if estimate is None else estimate),
        'estimate_of': 'roofline' if estimate is None else 'compiler',
        'scaling': [_scaled(chip, number, floor if estimate is None else estimate, size, waits, frames) for number in SCALED],
        'here': _scaled(chip, chips, floor if estimate is None else estimate, size, waits, frames),
    }


def _scaled(chip: Chip, chips: int, compute: float, size: float, waits: int, frames: int) -> dict[str, float]:
    communication = chip.all_reduce(chips, size, waits)
    seconds = compute + communication
    return {
        'chips': chips,
        'communication_ms': 1e3 * communication,
        'step_ms': 1e3 * seconds,
        'frames_per_s_per_chip': frames / seconds,
        'frames_per_s': chips * frames / seconds,
        'efficiency': compute / seconds,
    }


def _largest(
    compiled: Any, step: Step, batch: int, remat: bool, chip: Chip, verify: bool, *, has_remat: bool
) -> dict[str, dict[str, Any]]:
    """With and without remat: the line of memory against clips a chip through two compilations, and where it meets the limit."""
    found = {}
    for setting in (False, True) if has_remat else (remat,):
        fitting: dict[int, int] = {}  # clips -> bytes
        for clips in _around(batch):
            taken = step if (clips, setting) == (batch, remat) else compiled(clips, setting)
            if taken.memory is not None:
                fitting[clips] = taken.needed
            if len(fitting) == 2:
                break
        number = max(fitting, default=0)
        if len(fitting) == 2:
            less, more = sorted(fitting)
            a_clip = (fitting[more] - fitting[less]) / (more - less)
            number = max(number, math.floor(less + (chip.hbm - fitting[less]) / a_clip)) if a_clip > 0 else number
        verified = None
        if verify and number:
            taken = compiled(number, setting)
            verified = {'fits': taken.memory is not None, 'needed': taken.needed}
        found['remat' if setting else 'no remat'] = {
            'batch_per_chip': number,
            'compiled': {str(clips): fitting[clips] for clips in sorted(fitting)},
            'verified': verified,
        }
    return found


def _around(batch: int) -> Iterator[int]:
    """It and twice as many; then ever fewer."""
    yield from (batch, 2 * batch)
    while batch := batch // 2:
        yield batch


def _preset(fields: Mapping[str, Any]) -> str:
    """The preset whose network this is, whether with remat or without; `own` where it is none's."""
    name = fields['name']
    for preset in ('full', *MODELS[name].presets):
        if {**model_fields(name, preset), 'remat': None} == {**fields, 'remat': None}:
            return preset
    return 'own'


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
