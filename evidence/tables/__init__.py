"""Tables over archives of sweeps: by world, pair of tasks, setting and learning rate."""
