"""Recipe, plan, launch, run and report."""
