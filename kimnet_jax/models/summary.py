"""What a network is made of, as a short table."""

import jax
from flax import nnx, traverse_util

_FEWEST, _MOST = 4, 24  # rows that a table should have


def parameter_table(model: nnx.Module) -> list[str]:
    """Lines of a table: each module with its trained parameters, their type and size, and what else the network stores.

    Modules are named down to the depth at which there are enough rows to tell something; one that is a single array shows its
    shape.
    """
    params = _arrays(nnx.state(model, nnx.Param))
    rows = _grouped(params, 1)
    for depth in range(2, max(map(len, params)) + 1):
        if len(rows) >= _FEWEST or len(deeper := _grouped(params, depth)) > _MOST:
            break
        rows = deeper
    cells: list[tuple[str, ...]] = [('module', 'arrays', 'parameters', 'dtype', 'MiB')]
    cells += [_row('.'.join(path), arrays) for path, arrays in rows.items()]
    cells.append(_row('all', list(params.values())))
    if others := list(_arrays(nnx.state(model, nnx.Not(nnx.Param))).values()):
        cells.append(_row('not trained: statistics', others))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    aligned = ('<', '>', '>', '<', '>')
    return ['  '.join(f'{cell:{side}{width}}' for cell, side, width in zip(row, aligned, widths, strict=True)) for row in cells]


def _arrays(state: nnx.State) -> dict[tuple[str, ...], jax.Array]:
    return {tuple(map(str, path)): array for path, array in traverse_util.flatten_dict(nnx.to_pure_dict(state)).items()}


def _grouped(params: dict[tuple[str, ...], jax.Array], depth: int) -> dict[tuple[str, ...], list[jax.Array]]:
    groups: dict[tuple[str, ...], list[jax.Array]] = {}
    for path, array in params.items():
        groups.setdefault(path[:depth], []).append(array)
    return groups


def _row(name: str, arrays: list[jax.Array]) -> tuple[str, ...]:
    number = 'x'.join(map(str, arrays[0].shape)) if len(arrays) == 1 else str(len(arrays))
    dtypes = ', '.join(sorted({str(array.dtype) for array in arrays}))
    size = sum(array.size * array.dtype.itemsize for array in arrays) / 2**20
    return name, number, f'{sum(array.size for array in arrays):,}', dtypes, f'{size:.2f}'
