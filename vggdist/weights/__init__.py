"""Parameters that other programs have saved: reading their files without trust, and finding the layers that fit. No MXNet."""
