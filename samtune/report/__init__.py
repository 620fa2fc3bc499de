"""A study as a page and as pictures: what was found, what it depends on, and how to do it again."""
