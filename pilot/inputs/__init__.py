"""What experiments run on, whatever its subject: prompts with their answers, and pairs of them, as token ids."""
