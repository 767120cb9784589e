"""DeepDream and feature visualization: pictures that excite a network."""
