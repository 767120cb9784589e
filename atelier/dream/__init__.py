"""DeepDream and feature visualization: pictures that excite layers, channels, neurons and classes of a network."""
