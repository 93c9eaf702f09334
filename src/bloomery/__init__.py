"""bloomery takes raw web crawl to an aligned, evaluated chat model; every step between is a folder of standard files."""
