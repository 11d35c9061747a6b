"""Which learning rate? Trains one config with several and compares held-out accuracy.

`python benchmarks/learning_rate.py --data_dir data [--rates 1e-3,3e-3] [--steps 200] [--out FOLDER] [-- --config.x=y ...]`
Runs go to a temporary folder, one after the other.
"""

import argparse
import datetime
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import time


def main() -> None:
    """Runs the sweep, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--config', default='configs/kinetic_puppets.py')
    parser.add_argument('--data_dir', default='data')
    parser.add_argument('--rates', default='5e-4,1e-3,2e-3,4e-3')
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path('benchmarks/results'))
    parser.add_argument('rest', nargs='*', help='further flags of kimnet_jax.train')
    args = parser.parse_args()
    rows = []
    print(f'{"rate":>8} {"loss":>10} {"torso@0.2":>10} {"torso@0.05":>11} {"AUC":>7} {"seconds":>8}')
    for rate in map(float, args.rates.split(',')):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, '-m', 'kimnet_jax.train', '--config', args.config, '--workdir', folder]
            command += [f'--config.dataset.data_dir={args.data_dir}', f'--config.train.steps={args.steps}']
            command += [f'--config.optimizer.learning_rate={rate}', '--config.train.eval_every=1000000', *args.rest]
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
            records = [json.loads(line) for line in (pathlib.Path(folder) / 'metrics.jsonl').read_text().splitlines()]
        last = {kind: next(r for r in reversed(records) if r['kind'] == kind) for kind in ('train', 'eval')}
        row = {
            'rate': rate,
            'loss': last['train']['loss'],
            'torso@0.2': last['eval']['torso/pck/0.2/mPCK'],
            'torso@0.05': last['eval']['torso/pck/0.05/mPCK'],
            'AUC': last['eval']['torso/auc/mPCK'],
            'seconds': round(seconds, 1),
        }
        rows.append(row)
        accuracy = f'{row["torso@0.2"]:>10.3f} {row["torso@0.05"]:>11.3f} {row["AUC"]:>7.3f}'
        print(f'{rate:>8.0e} {row["loss"]:>10.2e} {accuracy} {seconds:>8.0f}', flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    today = datetime.date.today().isoformat()
    record = {'date': today, 'machine': platform.machine(), 'config': args.config, 'steps': args.steps, 'flags': args.rest}
    (args.out / f'learning_rate_{today}.json').write_text(json.dumps(record | {'rows': rows}, indent=2) + '\n')


if __name__ == '__main__':
    main()
