"""Style transfer: the task (transfer), the search and its loss, stylization networks, their training and files."""
