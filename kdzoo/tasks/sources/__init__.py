"""Where a task's rows come from: the hub, a folder, files, or the synthetic grammar."""
