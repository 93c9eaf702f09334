"""The corpus page: what curation did to the documents of a run, from what its stages left."""
