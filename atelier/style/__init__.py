"""Style transfer: the task (painting), the search and its loss, stylization networks, their training and files."""
