"""How many people a second? All of a frame in one call, beside one after the other: `python benchmarks/people.py`.

The crops, the network in its recursion and the decoder, as `predict` has them; the video is decoded and drawn elsewhere. In each
round both run in turn on the same frames; the ratio is the median over the rounds.
"""

import argparse
import copy
import datetime
import json
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np

from kimnet_jax.inference.people import Look
from kimnet_jax.inference.predictor import padded
from kimnet_jax.reporting.tables import table
from kimnet_jax.tasks import videos
from kimnet_jax.tasks.trained import open_trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='kimnet-s-jhmdb')
    parser.add_argument('--people', type=int, nargs='+', default=[1, 2, 4, 5, 8, 16])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--frames', type=int, default=8, help='of a round')
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args()
    model = videos.load(open_trained(options.model))
    frames = np.random.default_rng(0).integers(0, 256, (options.frames, 1080, 1920, 3), np.uint8)
    cases = []
    for count in options.people:
        looks = [Look(i, np.array([40 + 100 * i, 300, 190 + 100 * i, 700], np.float32), False) for i in range(count)]
        alone = [copy.copy(model.predictor) for _ in looks]  # each with a state of its own

        def together(looks: list[Look] = looks) -> list[np.ndarray]:
            return [joints for frame in frames for joints, _ in model.predictor.people(frame, looks)]

        def one_by_one(looks: list[Look] = looks, alone: list = alone) -> list[np.ndarray]:
            return [one(frame, look.box, restart=False)[0] for frame in frames for one, look in zip(alone, looks, strict=True)]

        model.predictor.people(frames[0], [])
        together(), one_by_one()  # compiled, and equally far in the recursion
        error = float(np.abs(np.subtract(together(), one_by_one())).max())
        rounds = [(seconds(together), seconds(one_by_one)) for _ in range(options.rounds)]
        total = options.frames * count
        cases.append(
            {
                'people': count,
                'computed': padded(count),
                'together_per_s': total / statistics.median(first for first, _ in rounds),
                'one_by_one_per_s': total / statistics.median(second for _, second in rounds),
                'ratio': statistics.median(second / first for first, second in rounds),
                'largest_difference_px': error,
            }
        )
    print(table(list(cases[0]), [[f'{value:.3g}' for value in case.values()] for case in cases]))
    date = datetime.date.today().isoformat()
    about = {'date': date, 'model': options.model, 'rounds': options.rounds, 'device': str(jax.devices()[0].device_kind)}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f'people_{date}.json'
    path.write_text(json.dumps(about | {'jax': jax.__version__, 'cases': cases}, indent=2) + '\n', encoding='utf-8')
    print(f'written: {path}')


def seconds(function: Callable[[], object]) -> float:
    """Of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == '__main__':
    main()
