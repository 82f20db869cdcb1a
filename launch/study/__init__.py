"""The study: how batch size, learning rate and epochs play out, from many small runs and honest statistics."""
