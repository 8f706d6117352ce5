"""The command ``python -m kdzoo.bench.peers``, see `kdzoo.bench.measure.peers`."""

from kdzoo.bench.measure.peers import command

if __name__ == "__main__":
    command()
