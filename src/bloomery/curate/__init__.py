"""Documents in; fewer and better documents out."""
