"""The nouns: frozen values without I/O, shared by every room and by the worker.

events (what a swarm says) become records (what the store keeps) become episodes (closed attempts with an outcome)
become training data (examples) become trained models (adapters with lineage and verdict). `job` is what daemon and
worker say to each other, `ids` how everything is named.
"""
