"""What every worker needs, imported once by the server that workers are forked from (`core/pool.py`); by nobody else.

The only module of ours that works when it is imported: importing is all that the server does. Nothing here starts a
thread, which would not survive the fork.
"""

import gc
import importlib

MODULES = (
    *("numpy", "pyarrow.compute", "pyarrow.parquet", "polars", "numba", "numba.np.arraymath"),
    *("bloomery.core.files", "bloomery.core.stage"),
    *("fastwarc.warc", "ftfy", "py3langid.langid", "re2", "resiliparse.extract.html2text", "resiliparse.parse.encoding"),
)


def _load() -> None:
    gc.disable()  # what is imported stays: a seventh of the time went into looking for garbage in it
    for name in MODULES:
        importlib.import_module(name)
    gc.freeze()  # nor do workers look there, and so the pages stay shared
    gc.enable()


_load()
