"""Training that stages share: the loop, its checkpoints, and the processes and threads that compute a step."""
