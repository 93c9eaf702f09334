"""The database of votes: campaigns, answers, who compared them, and what they said."""
