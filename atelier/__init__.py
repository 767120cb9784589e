"""The modules that the scripts use: shared modules in this folder, and a package for each subject."""
