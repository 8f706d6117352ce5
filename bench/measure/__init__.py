"""Measurements: costs of losses, throughput of trainings, kernels, and other libraries beside ours."""
