"""Folders of photos, and the processes and machines that share the work."""
