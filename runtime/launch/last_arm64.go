package launch

const machineType = 183 // EM_AARCH64
