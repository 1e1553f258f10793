"""What is done with an installation as a whole: examine it, back it up, restore it, forget what it must not keep."""
