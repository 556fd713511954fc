"""Photos: found, decoded and turned into inputs."""
