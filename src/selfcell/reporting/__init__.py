"""One self-contained HTML page from the tables of a results or run folder; no torch, no network."""
