"""The modules behind the scripts: shared modules here, and a package for each subject."""
