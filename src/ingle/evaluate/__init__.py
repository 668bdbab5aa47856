"""Quality: what a model knows, says and calls, with errors. Heavy libraries are imported where they are used."""
