"""`fedmq run --dry-run`: what a run will take, found out by a little of it, in a folder that is thrown away."""
