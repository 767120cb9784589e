"""Films painted frame by frame: reading and writing them, the optical flow between frames, and the painting."""
