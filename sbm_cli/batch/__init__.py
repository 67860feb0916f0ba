"""Many files: what to do, what was done, and the processes that do it."""
