"""Import all scripts, and load the modules that wait for their first use, as packages do that inspect all modules."""

import importlib
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent))

SCRIPTS = "style_transfer train_style deepdream visualize_filters classify_mnist generate_rnn train_rnn"

for name in SCRIPTS.split():
    importlib.import_module(name)
seen = set()
while new := [module for name, module in sys.modules.items() if name not in seen]:
    seen.update(sys.modules)
    for module in new:
        hasattr(module, "__file__")
print("atelier.networks.deconvnet" in sys.modules, type(sys.modules["util"]).__name__)
