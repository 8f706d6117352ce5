"""What every loss is made from: base class, reductions, attention, divergences, structure; and the registry."""
