"""Published methods, one file a method: its losses and its recipe; imported as ``kdzoo.baselines``.

Importing this package imports each of its files, which registers what they hold.
"""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
