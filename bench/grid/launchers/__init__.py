"""Where the trainings of a comparison run: in this process, in worker processes, or as tasks on a Ray cluster."""
