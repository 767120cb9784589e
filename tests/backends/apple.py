"""Print what a user of Apple's GPU sees of PyTorch's warning that the processor computes an operation."""

import os
import pathlib
import sys
import warnings

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

from atelier import backend  # noqa: F401, PyTorch starts quietly

warnings.warn(
    "The operator 'aten::isin' is not currently supported on the MPS backend and will fall back to run on the CPU. "
    "This may have performance implications. (Triggered internally at MPSFallback.mm:14.)",
    stacklevel=1,
)
warnings.warn("something else", stacklevel=1)
print(f"fallback: {os.environ['PYTORCH_ENABLE_MPS_FALLBACK']}")
