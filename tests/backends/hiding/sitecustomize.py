"""Python imports this at its start. Packages in HIDDEN_PACKAGES can't be imported, as if they were not installed."""

import os
import sys

sys.modules.update(dict.fromkeys(os.environ["HIDDEN_PACKAGES"].split()))
