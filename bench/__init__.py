"""The comparison: runs methods over tasks and seeds, and reports them; imported as ``kdzoo.bench``."""
