"""A network as a graph of layers: captured from any module, made smaller, run whole or on boxes."""
