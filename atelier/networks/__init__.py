"""Neural networks: pretrained ones and users' classifiers, features and gradients, faster layers, and minimizers."""
