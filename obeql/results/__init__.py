"""What statements return: heat maps, results of many maps, messages; without torch and without matplotlib."""
