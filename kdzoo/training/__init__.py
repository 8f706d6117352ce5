"""Training: the trainer, the teacher's cache, gradient perturbation and the stopwatch."""
