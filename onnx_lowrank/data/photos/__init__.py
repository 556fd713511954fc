"""Photos: listed, decoded and turned into inputs."""
