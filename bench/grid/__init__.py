"""Many trainings: the comparison, its settings, cells, board, tracking and launchers."""
