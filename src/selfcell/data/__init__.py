"""From files to minibatches of cells."""
