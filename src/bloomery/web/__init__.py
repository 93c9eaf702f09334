"""What people would rather look at than read: runs, corpus, tokenizer, chat and arena in the browser (`bloomery web`)."""
