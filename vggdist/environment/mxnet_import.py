"""The first import of MXNet, without the optional packages that take a quarter of its time."""

from __future__ import annotations

import contextlib
import sys

OPTIONAL = ("scipy", "sklearn", "onnx")
"""MXNet 1.9.1 imports them if they are installed, for modules that vggdist does not use (``ndarray.sparse``, ``model``,
``contrib.quantization``, ``onnx``). Without them a rank starts 0.33 s sooner, of 1.47 s (AMD EPYC, medians of 5)."""


def import_mxnet() -> None:
    """Import MXNet without the optional packages that are not imported yet; afterwards they can be imported as usual.

    An import that fails raises nothing here: the caller's own ``import mxnet`` raises the same error.
    """
    if "mxnet" in sys.modules:
        return
    hidden = {name: None for name in OPTIONAL if name not in sys.modules}
    sys.modules.update(hidden)  # type: ignore[arg-type]  # None makes the import of that name an ImportError
    try:
        with contextlib.suppress(ImportError, OSError):
            import mxnet  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
