"""Programs of this machine: started as modules, known by their processes, ended. Shared by embedded providers."""
