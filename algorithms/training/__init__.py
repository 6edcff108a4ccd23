"""The training loop and all that belongs to it: stages, samples, rollouts, checkpoints, logs."""
