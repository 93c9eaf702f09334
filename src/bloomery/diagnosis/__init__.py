"""What is wrong with a run: pure checks on the numbers it logged and on what was measured of its model and data."""
