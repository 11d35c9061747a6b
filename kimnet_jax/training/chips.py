"""Chips that a run can be planned for: what their makers state, and what the networks between them take.

Sources, all public:

- TPUs: peak, HBM bandwidth and interconnect are those of Cloud TPU's pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e"
  (docs.cloud.google.com/tpu/docs/v4 ...). `link_bandwidth` is all links of a chip in one direction, half of the stated
  bidirectional bandwidth; it is the stated all-reduce bandwidth of a pod per chip (v5e: 51.2 TB/s / 256, v6e: 102.4 TB/s / 256).
  For v4 the page gives the pod's alone, 1.1 PB/s / 4096.
- `hbm` of a TPU is what libtpu 0.0.42 allows a program: "exceeds available HBM (15.75G)".
- `clock` is the stated peak divided by the bfloat16 operations of the matrix units in a cycle: 131,072 for v5e (four units of
  128 x 128), 262,144 for v4 and v5p (eight), 524,288 for v6e. The page says 262,144 for v6e (two of 256 x 256), which cannot be:
  the compiler's estimate of a product of two matrices of 8192 x 8192 has 369,000 in a cycle, 70 % of 524,288; those of the others
  have 88 to 93 % of theirs.
- Torus: about a microsecond a hop; v5e and v6e have rings along axes of 16, v4 and v5p where all axes are multiples of 4, and
  without a ring a transfer takes twice as long: "How to Scale Your Model", chapters "How to Think About TPUs" and "Sharded
  Matrices" (jax-ml.github.io/scaling-book).
- H100 SXM: NVIDIA's data sheet (989 TFLOP/s without sparsity, 3.35 TB/s, NVLink 900 GB/s in both directions) and DGX H100's
  (eight 400 Gb/s adapters for eight GPUs). `hbm` is three quarters of the 79.1 GiB, which is what JAX takes unless
  XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise. Latencies are those by which NCCL chooses its algorithm (`baseLat` and `hwLat` in
  its src/graph/tuning.cc: trees, protocol LL, NVLink and network).
"""

import dataclasses
import math
import re
from typing import Literal

from kimnet_jax.core.errors import InputError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Torus:
    """A network between neighbours in a grid. Attributes:
    axes: of the grid.
    ring: length from which on an axis is closed to a ring.
    cubes: whether that takes all axes to be of this length.
    hop: seconds from a chip to its neighbour.
    """

    axes: int
    ring: int
    cubes: bool
    hop: float

    def shape(self, chips: int) -> tuple[int, ...]:
        """Of the slice of a power of two of chips whose axes are as equal as can be, the longest last."""
        sides = [1] * self.axes
        for _ in range(chips.bit_length() - 1):
            sides[sides.index(min(sides))] *= 2
        return tuple(sorted(sides))

    def rings(self, sides: tuple[int, ...]) -> list[bool]:
        """Which axes of a slice are rings."""
        return [(min(sides) if self.cubes else side) >= self.ring for side in sides]

    def latency(self, chips: int) -> float:
        """Seconds of an all-reduce of very little: along every axis there and back, around a ring in both directions at once."""
        sides = self.shape(chips)
        return 2 * self.hop * sum(side // 2 if ring else side - 1 for side, ring in zip(sides, self.rings(sides), strict=True))

    def transfer(self, chips: int, size: float, bandwidth: float) -> float:
        """Seconds of an all-reduce of `size` bytes by all links; an axis that is no ring has half of the bandwidth."""
        sides = self.shape(chips)
        used = [0 if side == 1 else 1 if ring else 0.5 for side, ring in zip(sides, self.rings(sides), strict=True)]
        return 2 * size * (chips - 1) / chips / (bandwidth * sum(used) / self.axes)


@dataclasses.dataclass(frozen=True)
class Nodes:
    """A switch in each machine, and a network between the machines. Attributes:
    size: chips of a machine.
    network: bytes a second from each chip to other machines.
    start, hop, network_hop: seconds to begin, to the next chip, to the next machine.
    """

    size: int
    network: float
    start: float
    hop: float
    network_hop: float

    def latency(self, chips: int) -> float:
        """Seconds of an all-reduce of very little, by a tree over the machines."""
        inside, machines = min(chips, self.size), math.ceil(chips / self.size)
        return self.start + 2 * ((inside - 1) * self.hop + math.log2(machines) * self.network_hop)

    def transfer(self, chips: int, size: float, bandwidth: float) -> float:
        """Seconds of an all-reduce of `size` bytes: within the machines, and of each chip's share between them."""
        inside, machines = min(chips, self.size), math.ceil(chips / self.size)
        between = 2 * size / inside * (machines - 1) / machines / self.network
        return 2 * size * (inside - 1) / inside / bandwidth + between


@dataclasses.dataclass(frozen=True)
class Chip:
    """A kind of chip.

    Attributes:
        label: as its maker calls it.
        platform: that programs are compiled for.
        hbm: bytes of memory that a program can use.
        peak: bfloat16 FLOP/s.
        hbm_bandwidth, link_bandwidth: bytes/s of the memory, and to other chips in one direction.
        clock: Hz, of the cycles of the compiler's estimate; None where there is none.
        network: between the chips.
    """

    label: str
    platform: Literal['gpu', 'tpu']
    hbm: int
    peak: float
    hbm_bandwidth: float
    link_bandwidth: float
    clock: float | None
    network: Torus | Nodes

    def all_reduce(self, chips: int, size: float, waits: int) -> float:
        """Seconds of all-reduces of `size` bytes in all, when the program waits for one `waits` times."""
        if chips == 1:
            return 0.0
        return waits * self.network.latency(chips) + self.network.transfer(chips, size, self.link_bandwidth)


_PLANE, _SPACE = Torus(2, 16, False, 1e-6), Torus(3, 4, True, 1e-6)
CHIPS = {  # by the name in `--topology`
    'v4': Chip('TPU v4', 'tpu', int(30.75 * GIB), 275e12, 1.2e12, 268e9, 1.05e9, _SPACE),
    'v5e': Chip('TPU v5e', 'tpu', int(15.75 * GIB), 197e12, 819e9, 200e9, 1.5e9, _PLANE),
    'v5p': Chip('TPU v5p', 'tpu', int(95.74 * GIB), 459e12, 2765e9, 600e9, 1.75e9, _SPACE),
    'v6e': Chip('TPU v6e', 'tpu', int(31.25 * GIB), 918e12, 1638e9, 400e9, 1.75e9, _PLANE),
    'h100': Chip('H100 SXM', 'gpu', 84929347584 * 3 // 4, 989e12, 3.35e12, 450e9, None, Nodes(8, 50e9, 6.8e-6, 0.6e-6, 5e-6)),
}
_FORMS = 'v5e:16x16, v6e:2x4, v4:2x2x1, v5p:4x4x8 or h100x8'
_MOST = 4096  # chips


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that a program is compiled for. Attributes:
    text: as it was given.
    chip: of which kind they are.
    shape: their number along each axis; of GPUs, the number.
    """

    text: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """How many."""
        return math.prod(self.shape)


def parse_topology(text: str) -> Topology:
    """Reads `--topology`. Raises `InputError` naming the forms, or the number of chips that cannot be."""
    found = re.fullmatch(r'(v\w+):(\d{1,4}(?:x\d{1,4})+)|(h\w+?)x(\d{1,6})', text)
    name = (found[1] or found[3]) if found else ''
    if found is None or name not in CHIPS:
        raise InputError(f'--topology={text}: unknown; known chips: {", ".join(CHIPS)}; give one as {_FORMS}')
    chip = CHIPS[name]
    shape = tuple(map(int, (found[2] or found[4]).split('x')))
    number = math.prod(shape)
    if isinstance(chip.network, Torus) and len(shape) != chip.network.axes:
        raise InputError(f'--topology={text}: a {chip.label} slice has {chip.network.axes} axes, as in {_FORMS}')
    if not 1 <= number <= _MOST:
        raise InputError(f'--topology={text}: {number} chips; must be 1 to {_MOST}')
    if isinstance(chip.network, Nodes) and number > chip.network.size and number % chip.network.size:
        raise InputError(f'--topology={text}: more than {chip.network.size} must be a multiple of {chip.network.size}')
    return Topology(text, chip, shape)
