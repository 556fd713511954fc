"""The activations behind a layer, each kind with its z-step."""
