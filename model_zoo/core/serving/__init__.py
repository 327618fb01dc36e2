"""A trained model becomes a smaller, exactly equal function that answers in milliseconds.

Nothing here needs more than torch; what folds a model stands beside it.
"""
