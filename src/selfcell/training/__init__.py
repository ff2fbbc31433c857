"""From an objective and cells to a run folder."""
