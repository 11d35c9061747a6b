"""Numbers printed in Dang et al., "Kinematics Modeling Network for Video-based Human Pose Estimation" (arXiv 2207.10971v1):
its comparisons with the state of the art, PCK@0.2 in percent."""

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
