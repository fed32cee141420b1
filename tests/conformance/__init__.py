"""One suite for every engine: what the engine protocol promises, each engine keeps."""
