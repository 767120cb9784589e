"""Networks that know photographs: their weights, features and gradients, and layers that run faster on processors."""
