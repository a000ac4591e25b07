"""Our own code as modules that can be judged: the only part of the verifier that imports it."""
