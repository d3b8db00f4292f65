"`python -m cond_distill`: the same as `cond-distill`, for launchers that want a module."

from .cli import main

if __name__ == "__main__":
    main()
