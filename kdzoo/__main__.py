"""``python -m kdzoo``: the command line, as ``torchrun -m kdzoo`` and ``accelerate launch -m kdzoo`` start it."""

from kdzoo.cli.main import main

if __name__ == "__main__":
    main()
