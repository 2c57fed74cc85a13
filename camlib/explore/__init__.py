"""A photo at a time, live: networks that stay loaded, and the pictures and files of what they show."""
