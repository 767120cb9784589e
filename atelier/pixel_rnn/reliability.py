"""How a classification can be trusted: calibration of its posterior, and a sheet of its errors."""

import numpy as np

from atelier import imaging

BINS = 15  # as Guo et al. 2017 have it


def calibration_error(confidence, correct):
    """Return the expected calibration error of the predicted classes (Guo et al. 2017), from 0 to 1.

    `confidence` is the posterior of the predicted class, float N, and `correct` tells whether it is right, bool N. The
    error is the mean difference, over the pictures, between the mean confidence in a bin and the share that is right.
    """
    from sklearn.calibration import calibration_curve

    share_right, mean_confidence = calibration_curve(correct, confidence, n_bins=BINS)
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)  # those of calibration_curve
    counts = np.bincount(bins)
    return float(np.average(np.abs(share_right - mean_confidence), weights=counts[counts > 0]))


def plot(confidence, correct):
    """Plot the share of right predictions over their posterior, above a histogram of the posterior; return a figure."""
    from matplotlib.figure import Figure
    from sklearn.calibration import CalibrationDisplay

    figure = Figure(figsize=(6, 7), layout="constrained")
    upper, lower = figure.subplots(2, height_ratios=(3, 1), sharex=True)
    display = CalibrationDisplay.from_predictions(correct, confidence, n_bins=BINS, ax=upper, name="predicted class")
    error = calibration_error(confidence, correct)
    display.ax_.set(xlabel="", ylabel="share that is right", title=f"expected calibration error {error:.4f}")
    lower.hist(confidence, bins=np.linspace(0, 1, BINS + 1), log=True)
    lower.set(xlabel="posterior of the predicted class", ylabel="pictures")
    return figure


def sheet_of_errors(images, labels, predictions, side=64, columns=16):
    """Arrange the pictures that are classified wrong, each under its label and prediction: uint8 H x W x 3.

    `images` is uint8 N x H x W. They are sorted by label, then by prediction. There must be at least one error.
    """
    wrong = np.flatnonzero(labels != predictions)
    wrong = wrong[np.lexsort((predictions[wrong], labels[wrong]))]
    enlarge = -(-side // images.shape[2])
    tiles = np.repeat(images[wrong].repeat(enlarge, 1).repeat(enlarge, 2)[..., None], 3, axis=3)
    titles = [f"{labels[i]} as {predictions[i]}" for i in wrong]
    titled = np.stack([imaging.with_title(tile, title) for tile, title in zip(tiles, titles, strict=True)])
    return imaging.contact_sheet(titled, min(columns, len(titled)), across=0)
