"""Checkpoints: what to train, with which process, and how its outcome becomes rows and files of the lake.

The training itself is `models.training`, a process of its own; nothing here imports torch.
"""
