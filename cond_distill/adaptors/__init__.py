"""The kinds of adaptor, each in a module of its own; `catalogue` has all of them by name."""
