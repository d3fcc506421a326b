package launch

const machineType = 62 // EM_X86_64
