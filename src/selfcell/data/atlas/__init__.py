"""The atlas on disk: many files of cells made into one that can be streamed."""
