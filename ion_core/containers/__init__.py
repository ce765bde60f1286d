"""What runtimes share that run images hardened, with conmon at each container: see the files."""
