"""The kinds of adaptor, each in a module of its own; `catalogue` has all of them by name."""

from cond_distill._moved import forward

__getattr__ = forward(__name__)
