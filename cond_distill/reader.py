"""An old place: see `cond_distill._moved`."""

from cond_distill._moved import forward

__getattr__ = forward(__name__)
