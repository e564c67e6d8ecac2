"""What the commands of tests import of other libraries, imported once by the process that they are forked from.

Nothing here runs a network: threads do not survive a fork.
"""

import gc
import importlib

from hydra.core.plugins import Plugins

for name in (
    "certseg.pipeline.main",
    "certseg.training.trainer",
    "support.commands",
    # what certseg and the libraries it is built on import when they are first used
    "fontTools.subset",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_pdf",
    "matplotlib.pyplot",
    "mmseg.datasets",
    "mmseg.models",
    "numba",
    "scipy.stats",
    "torch.profiler",
    "torchvision.models.segmentation",
    "yapf.yapflib.yapf_api",
):
    importlib.import_module(name)
Plugins.instance()  # which imports those of Hydra
gc.collect()
gc.freeze()  # a collection in a forked process would write to, and so copy, the memory of all that is imported
