"""What benchmarks/ingest.py is made of: the events, the servers that are compared, and the clients that feed them."""
