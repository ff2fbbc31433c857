"""The command line: ``selfcell COMMAND``. Torch and its kin are imported inside commands only."""
