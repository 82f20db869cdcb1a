"""What a step costs in seconds: measured, calibrated, replayed and projected to any number of ranks."""
