"""Which value of a field? Trains one config with several of them and several seeds, and compares held-out accuracy.

`python benchmarks/choices.py FIELD VALUE [VALUE ...] [--seeds 0,1,2] [--steps 200] [--devices N] [-- --config.x=y ...]`
`--devices`: virtual ones, of the CPU. Runs go to a temporary folder, one after the other.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time
from typing import Any

METRICS = {'torso@0.2': 'torso/pck/0.2/mPCK', 'torso@0.05': 'torso/pck/0.05/mPCK', 'AUC': 'torso/auc/mPCK'}


def train(args: argparse.Namespace, value: str, seed: int) -> dict[str, Any]:
    """One run: its last loss, its accuracy and how long it took."""
    environment = dict(os.environ)
    if args.devices:
        environment['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count={args.devices}'
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, '-m', 'kimnet_jax.train', '--config', args.config, '--workdir', folder]
        command += [f'--config.dataset.data_dir={args.data_dir}', f'--config.train.steps={args.steps}']
        command += ['--config.train.eval_every=1000000', f'--config.seed={seed}', f'--config.{args.field}={value}', *args.rest]
        began = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
        seconds = time.perf_counter() - began
        records = [json.loads(line) for line in (pathlib.Path(folder) / 'metrics.jsonl').read_text().splitlines()]
    last = {kind: next(r for r in reversed(records) if r['kind'] == kind) for kind in ('train', 'eval')}
    accuracy = {key: last['eval'][name] for key, name in METRICS.items()}
    return {'value': value, 'seed': seed, 'loss': last['train']['loss'], **accuracy, 'seconds': round(seconds, 1)}


def main() -> None:
    """Runs all, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('field', help='such as optimizer.learning_rate')
    parser.add_argument('values', nargs='+')
    parser.add_argument('--seeds', default='0')
    parser.add_argument('--config', default='configs/kinetic_puppets.py')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--devices', type=int, default=0)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('benchmarks/results'))
    given = sys.argv[1:]
    split = given.index('--') if '--' in given else len(given)
    args = parser.parse_args(given[:split], argparse.Namespace(rest=given[split + 1 :]))
    rows = []
    width = max(map(len, args.values))
    print(f'{args.field:>{width}} seed       loss  torso@0.2 torso@0.05     AUC  seconds')
    for seed in map(int, args.seeds.split(',')):
        for value in args.values:
            row = train(args, value, seed)
            rows.append(row)
            accuracy = f'{row["torso@0.2"]:>10.3f} {row["torso@0.05"]:>10.3f} {row["AUC"]:>7.3f}'
            print(f'{value:>{width}} {seed:>4} {row["loss"]:>10.2e} {accuracy} {row["seconds"]:>8.0f}', flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    settings = {key: getattr(args, key) for key in ('config', 'field', 'steps', 'devices')} | {'flags': args.rest}
    record = {'date': today, 'machine': platform.machine(), **settings, 'rows': rows}
    (args.out / f'{args.field.rpartition(".")[2]}_{today}.json').write_text(json.dumps(record, indent=2) + '\n')


if __name__ == '__main__':
    main()
