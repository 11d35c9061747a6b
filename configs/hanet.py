"""HANet, which refines the poses of any estimator: `--config configs/hanet.py:preset=small,source=noise`.

`source=noise` makes the estimates from the truth of `config.dataset`; all it needs is
`python -m data_pipelines.build kinetic_puppets --data_dir data`. `source=predictions` takes files that `evaluate --predictions`
wrote, `source=sequences` DeciWatch's npz files; name them in `config.poses.train` and `config.poses.eval` (docs/refine.md).
"""

from ml_collections import ConfigDict

from configs import common

PRESETS = {
    'small': {'interval': 3, 'window': 4, 'width': 64, 'levels': 3, 'pre_norm': True},  # reads every frame, see docs/refine.md
    'tiny': {'interval': 2, 'window': 2, 'width': 8, 'levels': 1, 'pre_norm': False},
    'jhmdb_2d': {'interval': 5, 'window': 2, 'width': 256, 'levels': 5, 'pre_norm': False},
    'h36m_3d': {'interval': 5, 'window': 20, 'width': 64, 'levels': 5, 'pre_norm': True},
    'pw3d': {'interval': 5, 'window': 20, 'width': 128, 'levels': 5, 'pre_norm': True},
    'aist_smpl': {'interval': 10, 'window': 10, 'width': 32, 'levels': 5, 'pre_norm': False},
}
KINDS = {'h36m_3d': '3d', 'pw3d': '3d', 'aist_smpl': 'smpl'}  # of other presets: 2d
FINAL_WEIGHT = {'2d': 5.0, '3d': 1.0, 'smpl': 2.0}


def get_config(arg: str | None = None) -> ConfigDict:
    """`preset`: small, tiny (for tests) or a released size; `source`: noise, predictions, sequences; `recipe`: ours, released;
    `kind`: 2d, 3d or smpl, if not given the preset's."""
    args = common.parse_arg(arg, preset='small', source='noise', recipe='ours', kind='')
    if args.preset not in PRESETS:
        raise ValueError(f'preset {args.preset!r}: choose {", ".join(PRESETS)}')
    kind = args.kind or KINDS.get(args.preset, '2d')
    if kind not in FINAL_WEIGHT:
        raise ValueError(f'kind {kind!r}: choose {", ".join(FINAL_WEIGHT)}')
    select = 'torso/pck/0.05/mPCK' if kind == '2d' else 'negative_mpjpe'
    config = ConfigDict(
        {
            'seed': 0,
            'dtype': 'float32',  # of the matrix products
            'model': {
                'name': 'hanet',
                **PRESETS[args.preset],
                'heads': 4,
                'dropout': 0.0,
                'activation': 'leaky_relu',
                'memory_mask': 'masked',
            },
            'init': {'model': '', 'partial': False},
            'dataset': {
                'name': 'kinetic_puppets',
                'config': 'joints15',
                'data_dir': 'data',
                'train_split': 'train',
                'eval_split': 'test',
                'allow_overlap': False,
            },
            'poses': {
                'source': args.source,
                'kind': kind,
                'train': '',
                'eval': '',
                'allow_missing': False,
                'train_truth': '',
                'eval_truth': '',
                'root': (0,) if args.preset == 'h36m_3d' else (),  # the hip
                'smpl_file': '',
                'normalise': 'none' if kind == 'smpl' else 'box',
                'augment_scale': (1.0, 1.0) if kind == 'smpl' else (0.8, 1.25),
                'augment_rotation': 30.0,
                'augment_flip': 0.5,
                'augment_shift': 0.0 if kind == 'smpl' else 0.05,
            },
            'noise': {'jitter': 0.05, 'outliers': 0.1, 'swaps': 0.0, 'gaps': 0.0, 'gap_length': 8},
            'loss': {'final_weight': FINAL_WEIGHT[kind], 'refined_weight': 1.0, 'mutual': 'detached', 'space': 'poses'},
            'optimizer': {
                'schedule': 'cosine',
                'learning_rate': 3e-3,
                'warmup_epochs': 5.0,
                'drop_epochs': (),
                'final_rate': 0.01,
                'weight_decay': 0.01,
                'amsgrad': False,
                'clip_norm': 1.0,
                'accumulate': 1,
            },
            'train': {
                'epochs': 600.0,
                'steps': 0,  # instead of epochs
                'batch_size': 16,
                'average_decay': 0.995,  # moving average of the weights; 0: none
                'log_every': 10,  # steps
                'eval_every': 100.0,  # epochs
                'save_every': 20.0,  # epochs
            },
            'eval': {
                'batch_size': 64,  # windows
                'step': 1,  # frames from one window to the next
                'select': select,  # the best checkpoint has its highest value
            },
        }
    )
    if args.recipe == 'released':
        config.model.update(memory_mask='released', dropout=0.1, pre_norm=kind == '3d')
        config.optimizer.learning_rate = 1e-3
        config.loss.mutual = 'released'
        config.poses.update(
            normalise='image' if kind == '2d' else 'none',
            augment_scale=(1.0, 1.0),
            augment_rotation=0.0,
            augment_flip=0.0,
            augment_shift=0.0,
        )
        config.optimizer.update(amsgrad=True, clip_norm=0.0)
        config.train.update(epochs=70.0, average_decay=0.0)
        config.eval.step = config.model.interval
    elif args.recipe != 'ours':
        raise ValueError(f"recipe {args.recipe!r}: choose 'ours' or 'released'")
    return config
