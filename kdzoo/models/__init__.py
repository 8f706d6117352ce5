"""Models: what a forward pass exposes, heads, shapes, layer maps, inputs, students and teachers."""
