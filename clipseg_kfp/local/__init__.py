"""The pipelines on this machine, and the object store that comes along."""
