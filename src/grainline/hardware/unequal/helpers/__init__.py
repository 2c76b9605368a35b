"""Scripts that run as processes of their own. They import nothing but each other and Python's own library."""
