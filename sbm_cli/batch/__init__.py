"""Many files: the plan, the journal, and the processes that do the work."""
