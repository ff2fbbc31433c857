"""Networks; they know nothing of files, genes or data sets."""
