"""Where the cache of compiled code was until 0.1; scripts import `directory` from here."""

from qgf_ref.backends.numba.kernels.cache import directory as directory
