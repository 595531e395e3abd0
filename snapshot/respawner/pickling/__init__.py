"""One pickle for the whole namespace, with the large memory beside it.

`pickler` writes it and `unpickler` reads it back; `regions` and `memory` are the two sides of the memory
that does not go through the pickle; the other modules each know one kind of object.
"""
