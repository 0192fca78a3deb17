"""A `Backbone` written in the form that an engine or a library loads, and read back."""
