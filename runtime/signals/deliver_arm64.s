#include "textflag.h"

// func handlerAddress() uintptr
TEXT ·handlerAddress(SB), NOSPLIT, $0-8
	MOVD $·deliver(SB), R0
	MOVD R0, ret+0(FP)
	RET

// func restorerAddress() uintptr
TEXT ·restorerAddress(SB), NOSPLIT, $0-8
	MOVD ZR, ret+0(FP)
	RET

// deliver is a signal handler of the kernel's calling convention: the signal's number is in R0. The kernel has saved all
// registers and gives them back.
TEXT ·deliver(SB), NOSPLIT|NOFRAME, $0-0
	SUB  $16, RSP
	MOVB R0, 8(RSP)
	MOVW ·pipe(SB), R0
	ADD  $8, RSP, R1
	MOVD $1, R2
	MOVD $64, R8 // write
	SVC
	ADD  $16, RSP
	RET
