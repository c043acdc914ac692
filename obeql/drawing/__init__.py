"""Draw heat maps: pictures and animations with matplotlib and Pillow, blocks and characters for terminals.

One module a kind of picture; `colors` and `legend` are shared by all of them.
"""
