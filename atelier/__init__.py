"""The modules behind the scripts: what all of them share is here, and each subject has a package of its own."""
