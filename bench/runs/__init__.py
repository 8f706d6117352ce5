"""One training: its budget, the training, its evaluation, its augmentation, and training on text."""
