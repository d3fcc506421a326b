#include "textflag.h"

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	LEAQ ·deliver(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func restorerAddress() uintptr
TEXT ·restorerAddress(SB), NOSPLIT, $0-8
	LEAQ ·restore(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// deliver is a signal handler of the kernel's calling convention: the signal's number is in DI. The kernel has saved all
// registers and gives them back.
TEXT ·deliver(SB), NOSPLIT|NOFRAME, $0-0
	SUBQ $24, SP
	MOVQ DI, 0(SP)
	MOVLQSX ·pipe(SB), DI
	MOVQ SP, SI
	MOVQ $1, DX
	MOVQ $1, AX // write
	SYSCALL
	ADDQ $24, SP
	RET

TEXT ·restore(SB), NOSPLIT|NOFRAME, $0-0
	MOVQ $15, AX // rt_sigreturn
	SYSCALL
	INT  $3
