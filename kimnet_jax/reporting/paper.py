"""Numbers printed in Dang et al., "Kinematics Modeling Network for Video-based Human Pose Estimation" (arXiv 2207.10971v1):
its comparisons with the state of the art and its ablations, PCK@0.2 in percent."""

from typing import NamedTuple

SOURCE = 'arXiv 2207.10971v1'
COLUMNS = ('Head', 'Shoulder', 'Elbow', 'Wrist', 'Hip', 'Knee', 'Ankle', 'mPCK')

# data set -> normaliser -> the row of KIMNet, in the order of COLUMNS
KIMNET = {
    'penn_action': {
        'person': (99.4, 99.6, 99.1, 99.0, 99.8, 99.5, 99.4, 99.7),
        'torso': (98.6, 97.7, 96.6, 95.7, 96.9, 97.3, 96.3, 96.9),
    },
    'sub_jhmdb': {
        'person': (98.9, 99.1, 98.7, 98.5, 98.6, 98.3, 97.2, 98.5),
        'torso': (90.1, 88.8, 87.1, 85.8, 87.9, 88.8, 86.2, 88.1),
    },
}

# data set -> normaliser -> method -> mPCK; K-FPN and TCE print person size only
PEERS = {
    'penn_action': {
        'person': {'LSTM-PM': 97.7, 'DKD': 97.8, 'K-FPN': 98.0, 'TCE': 98.0, 'RPSTN': 98.7},
        'torso': {'LSTM-PM': 92.6, 'DKD': 92.9, 'RPSTN': 95.7},
    },
    'sub_jhmdb': {
        'person': {'LSTM-PM': 93.6, 'DKD': 94.0, 'K-FPN': 94.7, 'TCE': 96.5, 'RPSTN': 97.4},
        'torso': {'LSTM-PM': 73.6, 'DKD': 77.4, 'RPSTN': 85.8},
    },
}


class AblationRow(NamedTuple):
    """Attributes:
    name: of the row, in `configs/models.py` and on the command line.
    label: as it is printed.
    mpck: as it is printed; None where the paper has no such row.
    reference: name of the row that its gap is to; None for such a row itself.
    """

    name: str
    label: str
    mpck: float | None
    reference: str | None


class Ablation(NamedTuple):
    """Attributes:
    number: of the table.
    subject: what its rows differ in.
    gap: what a row's gap is to, in words.
    rows: in the order in which they are printed.
    """

    number: str
    subject: str
    gap: str
    rows: tuple[AblationRow, ...]


# mPCK@0.2 by torso length on Penn Action. Of Table VI the text tells the differences: DKD 1.1 and JRPSP 0.9 below the KMM.
ABLATIONS = {
    'table3': Ablation(
        'III',
        'pose initializer and feature encoder',
        'ResNet-50',
        (
            AblationRow('without_p', 'w/o-P', 96.3, 'encoder_resnet50'),
            AblationRow('encoder_resnet18', 'ResNet-18', 95.6, 'encoder_resnet50'),
            AblationRow('encoder_resnet34', 'ResNet-34', 95.8, 'encoder_resnet50'),
            AblationRow('encoder_resnet50', 'ResNet-50', 96.9, None),
            AblationRow('encoder_hourglass', 'Hourglass', 97.1, 'encoder_resnet50'),
            AblationRow('encoder_hrnet', 'HRNet', 97.2, 'encoder_resnet50'),
        ),
    ),
    'table4': Ablation(
        'IV',
        'KMM in other frameworks',
        'the framework itself, the row above',
        (
            AblationRow('lstm_pm', 'LSTM-PM', 92.6, None),
            AblationRow('lstm_pm_kmm', 'LSTM-PM + KMM', 93.0, 'lstm_pm'),
            AblationRow('dkd', 'DKD', 92.9, None),
            AblationRow('dkd_kmm', 'DKD + KMM', 93.7, 'dkd'),
            AblationRow('rpstn', 'RPSTN', 95.7, None),
            AblationRow('rpstn_kmm', 'RPSTN + KMM', 95.9, 'rpstn'),
        ),
    ),
    'table5': Ablation(
        'V',
        'variants of the KMM',
        'the full KMM',
        (
            AblationRow('kmm_share_qk', 'W_Q = W_K', 95.8, 'kimnet'),
            AblationRow('kmm_no_scale', 'no scale', 95.8, 'kimnet'),
            AblationRow('kmm_residual', 'residual', 90.3, 'kimnet'),
            AblationRow('kmm_heatmap', 'from heatmaps', 90.4, 'kimnet'),
            AblationRow('kimnet', 'full', 96.9, None),
        ),
    ),
    'table6': Ablation(
        'VI',
        'temporal module of KIMNet',
        'KIMNet-KMM',
        (
            AblationRow('kimnet_dkd', 'KIMNet-DKD', 95.8, 'kimnet'),
            AblationRow('kimnet_jrpsp', 'KIMNet-JRPSP', 96.0, 'kimnet'),
            AblationRow('kimnet', 'KIMNet-KMM', 96.9, None),
            AblationRow('kimnet_none', 'every frame by itself', None, 'kimnet'),
        ),
    ),
}

SAME = {  # preset -> row -> the row that is the same network
    'tiny': {'encoder_resnet18': 'kimnet'},
    'small': {'encoder_resnet18': 'kimnet'},
    'full': {'encoder_resnet50': 'kimnet'},
}
