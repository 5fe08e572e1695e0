"""`fedmq doctor`: whether this machine, and a config, are fit for a run, found out before it."""
