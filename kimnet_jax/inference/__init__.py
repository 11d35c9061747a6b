"""From a video to poses: the model frame by frame, the box that follows the person, what is written."""
