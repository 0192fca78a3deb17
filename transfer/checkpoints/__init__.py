"""A file becomes a `Backbone`, a `Backbone` becomes a file, and the proof that it arrived."""
