"""Serving: the page and the HTTP API over trained runs of every field, and the engine that draws for many at once.

The engine knows rows (samples under way) and no field: a field's ``draw`` runs as it does offline, and what it asks of
``model.draw`` is walked together with the rows of everybody else.
"""
