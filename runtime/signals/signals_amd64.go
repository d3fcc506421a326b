package signals

const saRestorer = 0x04000000 // without it the kernel refuses to return from the handler
