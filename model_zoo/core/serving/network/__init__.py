"""Scores over the network: micro-batches, live items, live models.

What is answered (``service`` and the modules that it imports) knows no HTTP, so that every form
of the service calls the same; ``app``, ``bodies`` and ``server`` are the form for one machine. It
needs the extra ``serve``.
"""
