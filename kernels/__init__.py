"""The Triton side of a step. Importing any of it needs Triton.

``tables`` names the columns of the tables that the host writes. ``update``, ``norms`` and ``row_norms`` are the passes;
what the last program of a norm pass decides is in ``finish_step`` and ``finish_rule``, with ``sums``, ``policies``,
``clip_factors``, ``finish_coefficients`` and ``steering``. ``operands``, ``elements`` and ``codecs`` read and write;
``rules``, with ``momentum``, ``second_moment`` and ``soft_threshold``, ``pipeline`` and ``philox`` are the maths of an
element. ``numbers`` has powers.
"""
