"""One graphics card: measured with NVML, held by one worker. It must not decide who uses it."""
