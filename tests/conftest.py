"""Settings for every test."""

import os

# As the command line sets it, and before any test loads torch: threads that spin while they wait starve the tests beside them.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
