"""Environment variables, cores, GPUs and network interfaces of this process."""
