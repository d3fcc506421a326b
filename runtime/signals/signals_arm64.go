package signals

const saRestorer = 0 // the kernel has its own
