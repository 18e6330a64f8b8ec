"""From bags that a robot recorded to a folder of pictures with records.jsonl."""
