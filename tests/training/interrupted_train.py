"""Trains, and at one moment sends itself a signal: `python interrupted_train.py MOMENT NUMBER SIGNAL FLAGS...`.

MOMENT, the NUMBER-th time it comes: `record` a line goes to metrics.jsonl, `write` a folder of a checkpoint is made under its
temporary name, `commit` a checkpoint is about to get its own name, `mark` all files
of a checkpoint but the last one are in a remote folder, `evaluation` a batch of an evaluation is there.
"""

import os
import pathlib
import signal
import sys

from kimnet_jax import train
from kimnet_jax.core import paths
from kimnet_jax.tasks import evaluators
from kimnet_jax.training import remote

moment, number, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
del sys.argv[1:4]
count = 0
eval_batches, upload = evaluators.eval_batches, paths.upload


def happens(what: str) -> None:
    global count
    if what == moment:
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.Signals[name])


def watch(event: str, arguments: tuple) -> None:
    if event == 'open' and str(arguments[0]).endswith('metrics.jsonl') and arguments[1] == 'a':
        happens('record')
    elif event == 'os.mkdir' and 'orbax-checkpoint-tmp' in str(arguments[0]):
        happens('write')
    elif event == 'os.rename' and pathlib.Path(os.fspath(arguments[1])).parent.name == 'checkpoints':
        happens('commit')


def watched_eval_batches(*args, **kwargs):
    for batch in eval_batches(*args, **kwargs):
        happens('evaluation')
        yield batch


def watched_upload(source, target):
    if target.name == remote.MARK and target.parent.name.isdecimal():
        happens('mark')
    upload(source, target)


sys.addaudithook(watch)
paths.upload = watched_upload
evaluators.eval_batches = watched_eval_batches
train.cli()
