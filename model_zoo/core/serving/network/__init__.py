"""Scores over the network: micro-batches, live items, live models.

What is answered (``service`` and the modules that it imports) knows no HTTP, so that every form of
the service calls the same; ``app``, ``limits`` and ``server`` are the form for one machine. Needs the
extra ``serve``.
"""
