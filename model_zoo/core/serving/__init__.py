"""A trained QIN becomes a smaller, exactly equal function that answers in milliseconds.

``fold`` needs FuxiCTR; everything else here runs where only torch is installed.
"""
