"""What a person runs alone, without a dispatcher: the steps around a module, and a pipeline on this machine."""
